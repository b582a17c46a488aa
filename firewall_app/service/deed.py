"""`Deed`: one request to change something, as the core sees it: who asks, on what condition, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..policy.policy import Change, Policy
from ..records import Entry, Key, Note, Outcome
from . import describe


@dataclass
class Deed:
    """Made for one request, and used for at most one write.

    `condition` is asked of the policy that is to be changed, when nobody else can change it; what it raises refuses
    the write.
    """

    entry: Entry | None = None  # None: nothing is noted
    keeps: bool = False  # whether live connections outlast what the write takes away
    condition: Callable[[Policy], None] | None = None
    key: Key | None = None

    made_before: str | None = None  # the id of what a request with the same key has made
    after: Policy | None = None  # what its write came to, when there was one
    noted: bool = False  # whether the audit log has it

    def note(self, changes: Sequence[Change], made: object) -> Note | None:
        """What is to be kept together with changes of the policy."""
        outcome = Outcome.DONE if changes else Outcome.UNCHANGED
        entry = self.ended(outcome, changes=tuple(map(describe.change, changes)))
        if entry is None:
            return None
        return Note(entry, self.key, str(getattr(made, "id", ""))) if self.key and changes else Note(entry)

    def ended(
        self, outcome: Outcome, problem: str = "", changes: tuple[Mapping[str, object], ...] = ()
    ) -> Entry | None:
        """The line for what came of it.  The account is that of what was changed, if anything was."""
        if self.entry is None:
            return None
        told = ((c["after"] or c["before"]) for c in changes)
        accounts = [t["account"] for t in told if isinstance(t, dict) and t.get("account")]
        account = accounts[0] if accounts else self.entry.account
        return dataclasses.replace(self.entry, outcome=outcome, problem=problem, account=account, changes=changes)
