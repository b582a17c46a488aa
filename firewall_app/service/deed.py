"""`Deed`: one request to change something, as the core sees it: who asks, on what condition, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..policy.model import Port
from ..policy.policy import Change, Policy
from ..records import Entry, Key, Note, Outcome
from . import changes


@dataclass
class Deed:
    """Made for one request, and used for at most one write.

    `authority` and `condition` are asked when nobody else can change anything any more; what they raise refuses the
    write.
    """

    entry: Entry | None = None  # None: nothing is noted
    keeps: bool = False  # whether live connections outlast what the write takes away
    authority: Callable[[], None] | None = None  # whether who asks may still do so
    condition: Callable[[Policy], None] | None = None  # whether the policy is as who asks has seen it
    key: Key | None = None

    made_before: str | None = None  # the id of what a request with the same key has made
    after: Policy | None = None  # what its write came to, when there was one
    remark: str = ""  # what the audit log should say of a write that was done
    noted: bool = False  # whether the audit log has it

    def note(self, done: Sequence[Change], made: object, policy: Policy) -> Note | None:
        """What is to be kept together with changes of the policy."""
        accounts = {account for c in done if (account := _account(c, policy)) is not None}
        outcome = Outcome.DONE if done else Outcome.UNCHANGED
        told, text = changes.told(done)
        entry = self.ended(outcome, self.remark, told, accounts.pop() if len(accounts) == 1 else None)
        if entry is None:
            return None
        entry = dataclasses.replace(entry, text=text)
        return Note(entry, self.key, str(getattr(made, "id", ""))) if self.key and done else Note(entry)

    def ended(
        self,
        outcome: Outcome,
        problem: str = "",
        changes: tuple[Mapping[str, object], ...] = (),
        account: str | None = None,
    ) -> Entry | None:
        """The line for what came of it.  `account`: whose objects were changed, if that is more than was known."""
        if self.entry is None:
            return None
        account = account if account is not None else self.entry.account
        return dataclasses.replace(self.entry, outcome=outcome, problem=problem, changes=changes, account=account)


def _account(change: Change, policy: Policy) -> str | None:
    """Whose object was changed."""
    entity = change.entity
    if isinstance(entity, Port):
        droplet = policy.droplets.get(entity.droplet_id)
        return droplet.account if droplet is not None else None
    found: str | None = getattr(entity, "account", None)
    return found
