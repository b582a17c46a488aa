"""What a store acknowledged survives the death of its process, and a commit is there whole or not at all.

Run as a program, this file is the process that dies.  SIGKILL leaves what the kernel has; that SQLite also syncs to
disk is a matter of its settings (`test_sqlite_is_told_to_be_durable_and_strict`), which no kill can show.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from firewall_app.policy.model import Direction, Droplet, Firewall, Peer, PortRange, Protocol, Rule
from firewall_app.policy.policy import Draft
from firewall_app.store import Store

pytestmark = pytest.mark.process

RULES = 3


def next_step(draft: Draft, number: int) -> None:
    """Step n: droplet n appears, droplet n - 1 is renamed, and one firewall gets all its rules anew."""
    policy = draft.peek()
    draft.put(Droplet(number, name="new"))
    if number > 1:
        draft.put(replace(policy.droplets[number - 1], name="old"))
    content = Rule(Direction.INBOUND, Protocol.TCP, PortRange(number, number), Peer())
    rules = tuple(replace(content, id=draft.new_rule_id()) for _ in range(RULES))
    draft.put(Firewall("f1", "default", f"step-{number}", rules, droplet_ids=(number,)))


def write_until_killed(url: str, die_before: int | None) -> None:
    """Commits for ever, saying each revision once it is kept; or dies before the statement of a given number."""
    store = Store.open(url)
    policy, history = store.load()
    point = history.point
    if die_before is not None:
        left = count(die_before, -1)

        def die(*_: object) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        store._database._engine.raw_connection().dbapi_connection.set_trace_callback(die)  # type: ignore[union-attr]
    while True:
        draft = policy.edit()
        next_step(draft, point.revision + 1)
        changes, counters = draft.changes, draft.counters
        policy = draft.done()
        point = store.commit(changes, counters, point)
        print(point.revision, flush=True)


def check(url: str) -> int:
    """The revision that is stored, after checking that everything else is exactly of that revision."""
    with closing(Store.open(url)) as store:
        policy, history = store.load()
    revision = history.revision
    assert sorted(policy.droplets) == list(range(1, revision + 1))
    assert {d.id for d in policy.droplets.values() if d.name == "new"} == ({revision} if revision else set())
    # The firewall drew its own number after the rules that it began with.
    assert policy.counters.rule == RULES * revision + bool(revision)
    if revision:
        (firewall,) = policy.firewalls.values()
        assert (firewall.name, firewall.droplet_ids) == (f"step-{revision}", (revision,))
        assert [rule.id for rule in firewall.rules] == [policy.counters.rule - (revision == 1) - n for n in (2, 1, 0)]
        assert {rule.ports.first for rule in firewall.rules} == {revision}
    return revision


@contextmanager
def writer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    url, chance = f"sqlite:///{tmp_path}/firewall.db", random.Random(4)
    for _ in range(6):
        with writer(url) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 40)):
                process.stdout.readline()
            # Spins for a while, so that the writer is somewhere inside a commit.
            for _ in range(chance.randrange(200_000)):
                pass
            process.kill()
            said = [line for line in process.stdout.read().split("\n") if line]
            assert process.wait() == -signal.SIGKILL
        revision = check(url)
        if said:
            assert int(said[-1]) <= revision <= int(said[-1]) + 1
    assert check(url) >= 6


def test_death_before_each_statement_of_a_commit_undoes_it_whole(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/firewall.db"
    with closing(Store.open(url)) as store:
        for number in (1, 2):
            policy, history = store.load()
            draft = policy.edit()
            next_step(draft, number)
            changes, counters = draft.changes, draft.counters
            store.commit(changes, counters, history.point)
    for statement in count():
        with writer(url, str(statement)) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            assert process.wait() == -signal.SIGKILL
        if said:
            break
        assert check(url) == 2
    # Died before BEGIN, COMMIT and what is between; the last one had its first commit behind it.
    assert (said, check(url)) == ("3\n", 3)
    assert statement >= 8


if __name__ == "__main__":
    write_until_killed(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
