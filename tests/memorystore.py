"""What a store keeps beside the policy, in memory: for stores of tests that forget when the process ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime

from firewall_app.policy.errors import NotFound
from firewall_app.records import Entry, Key, Note, Token


class MemoryJournal:
    """The audit log, keys and tokens."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.kept: dict[str, Token] = {}

    def ping(self, write: bool = False) -> None:
        """Raises StoreError when the store is to fail."""

    def note(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self.record(note.entry)
            if note.key is not None:
                self.keys[note.key.scope, note.key.key] = note.key.fingerprint, note.made

    def record(self, *entries: Entry) -> None:
        self.ping()
        for entry in entries:
            self.log.append(dataclasses.replace(entry, number=len(self.log) + 1))

    def entries(self, wanted: Mapping[str, str], first: int, count: int) -> tuple[list[Entry], int]:
        self.ping()
        assert not wanted, "only the real store filters"
        return self.log[::-1][first : first + count], len(self.log)

    def made_with(self, key: Key) -> tuple[str, str] | None:
        self.ping()
        return self.keys.get((key.scope, key.key))

    def tokens(self) -> list[Token]:
        self.ping()
        return list(self.kept.values())

    def tokens_mark(self) -> tuple[object, ...]:
        return tuple(self.kept.values())

    def add_token(self, token: Token, entry: Entry | None = None) -> None:
        if entry is not None:
            self.record(entry)
        self.kept[token.id] = token

    def revoke_token(self, token_id: str, when: datetime, entry: Entry | None = None) -> None:
        if token_id not in self.kept:
            raise NotFound(f"there is no token {token_id!r}")
        if entry is not None:
            self.record(entry)
        self.kept[token_id] = dataclasses.replace(self.kept[token_id], revoked_at=when)
