"""What is remembered: the policy, the tokens and the audit log, in SQLite or PostgreSQL.

    store.py       load, commit, tokens: what the rest of the program calls
    writes.py      changes as the fewest rows to write
    prepared.py    statements of a commit, which go to the driver by themselves
    lease.py       which of several controllers may write
    journal.py     the audit log, and requests that must not be done twice
    codec.py       entities as rows, and back
    schema.py      the tables as they are now
    database.py    opening a database by its URL, finding it again, migrating it, telling its errors
    impatient.py   connections to PostgreSQL that do not wait for ever
    copies.py      backups: made, checked, restored
    migrations/    how the tables came to be what they are

Synchronous, and knows nothing of threads: calls may come from different threads, never two at a time.
"""

from .lease import Lease
from .store import Store

__all__ = ["Lease", "Store"]
