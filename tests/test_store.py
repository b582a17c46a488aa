"""The store on both databases: what was committed is what a fresh store loads, and failures change nothing."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from importlib import resources
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, select, text

from firewall_app.history import Point
from firewall_app.policy.errors import NotFound, StoreError
from firewall_app.policy.model import (
    Direction,
    Droplet,
    Entity,
    ExternalPeer,
    Firewall,
    Hypervisor,
    Peer,
    Port,
    PortRange,
    PortRules,
    Protocol,
    Rule,
    Tag,
)
from firewall_app.policy.policy import Draft, Policy
from firewall_app.records import Token
from firewall_app.store import Store, database, prepared, schema
from firewall_app.store.prepared import Prepared
from firewall_app.store.upgrade import versions

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)

NOW = datetime(2025, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
DPIDS = ("0000000000000001", "000000000000000a")
Fresh = Callable[[], str]


# --------------------------------------------------------------------------------------------- databases


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Gives the URL of a new, empty database whenever it is called."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        return server.database
    folder, numbers = tmp_path_factory.mktemp("store"), count(1)
    return lambda: f"sqlite:///{folder}/{next(numbers)}.db"


@pytest.fixture
def url(fresh: Fresh) -> str:
    return fresh()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as opened:
        yield opened


def raw(url: str, *statements: str) -> None:
    """Does to a database what the store would not."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def keep(store: Store, draft: Draft, point: Point) -> tuple[Policy, Point]:
    changes, counters = draft.changes, draft.counters
    return draft.done(), store.commit(changes, counters, point)


def put(store: Store, *entities: Entity) -> tuple[Policy, Point]:
    """Adds entities to what is stored."""
    policy, history = store.load()
    draft = policy.edit()
    for entity in entities:
        draft.put(entity)
    highest = max((rule.id for e in entities if isinstance(e, Firewall | PortRules) for rule in e.rules), default=0)
    draft.counters = replace(draft.counters, rule=max(highest, draft.counters.rule))
    return keep(store, draft, history.point)


def rule(number: int, direction: Direction = Direction.INBOUND) -> Rule:
    return Rule(direction, Protocol.TCP, PortRange(number, number), Peer(addresses=("10.0.0.0/8",)), id=number)


def firewall(*numbers: int, name: str = "web", key: str = "f1") -> Firewall:
    return Firewall(key, "default", name, tuple(rule(n) for n in numbers), created_at=NOW)


def port(key: str = "p1", droplet_id: int = 1, slot: int = 1) -> Port:
    return Port(key, droplet_id, DPIDS[0], "tap0", None, "00:01:02:03:04:05", ("10.0.0.1",), slot, NOW)


def one_of_each() -> tuple[Entity, ...]:
    rules = (rule(3), rule(4)), (rule(5, Direction.OUTBOUND), rule(6, Direction.OUTBOUND))
    return (
        *(Hypervisor(dpid, "h") for dpid in DPIDS),
        Tag("default", "web"),
        Droplet(1, tags=("web",)),
        Droplet(2),
        port(),
        port("p2", droplet_id=2, slot=2),
        firewall(1, 2),
        firewall(name="db", key="f2"),
        PortRules("p1", "default", *rules),
        ExternalPeer("Lb-1", "default", "lb", ("2001:DB8::1", "10.0.0.1"), (2, 1, 2), NOW),
    )


def assert_same(found: Policy, wanted: Policy) -> None:
    """Equal, also in what equality leaves out: rule ids, slots, moments."""
    assert found == wanted
    for table in ("hypervisors", "tags", "droplets", "ports", "firewalls", "port_rules", "external_peers"):
        entities, others = getattr(found, table), getattr(wanted, table)
        assert {key: asdict(e) for key, e in entities.items()} == {key: asdict(e) for key, e in others.items()}


# --------------------------------------------------------------------------------------------- round trip

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
accounts = st.sampled_from(["default", "other"])
tag_names = st.lists(st.sampled_from(["web", "Web", "db:1"]), max_size=3).map(tuple)
droplet_ids = st.sampled_from([1, 2, 3, 2**53])
addresses = st.lists(st.sampled_from(["10.0.0.1", "10.1.2.3/8", "2001:DB8::/32", "::1", "0.0.0.0/1"]), max_size=3)
moments = st.none() | st.datetimes(
    datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(minutes=-210))])
)
ranges = st.sampled_from(["0", "1-65535", "1", "443", "443-443", "8000-9000", "65535"]).map(PortRange.parse)
peers = st.builds(
    Peer,
    addresses=addresses.map(tuple),
    droplet_ids=st.lists(droplet_ids | st.just(999), max_size=3).map(tuple),
    tags=tag_names,
    load_balancer_uids=st.lists(texts, max_size=2).map(tuple),
    kubernetes_ids=st.lists(texts, max_size=2).map(tuple),
)
KINDS = ("hypervisor", "tag", "droplet", "port", "firewall", "port_rules", "external_peer", "drop", "trade")


@st.composite
def rule_lists(draw: st.DrawFn, draft: Draft, old: tuple[Rule, ...], direction: Direction) -> tuple[Rule, ...]:
    """Some of the old rules in any order, some of them with other words, and new ones anywhere between."""
    rules = draw(st.lists(st.sampled_from(old), unique_by=lambda r: r.id)) if old else []
    contents = st.builds(Rule, st.just(direction), st.sampled_from(Protocol), ranges, peers)
    rules = [replace(draw(contents), id=r.id) if draw(st.booleans()) else r for r in rules]
    for content in draw(st.lists(contents, max_size=3)):
        rules.insert(draw(st.integers(0, len(rules))), replace(content, id=draft.new_rule_id()))
    return tuple(rules)


def drop(draft: Draft, entity: Entity) -> None:
    """Drops an entity and what cannot be without it."""
    policy = draft.peek()
    match entity:
        case Hypervisor() | Droplet():
            index = policy.ports_on if isinstance(entity, Hypervisor) else policy.ports_of
            for key in index.get(entity.dpid if isinstance(entity, Hypervisor) else entity.id, ()):
                drop(draft, policy.ports[key])
        case Port() if entity.id in policy.port_rules:
            draft.drop(policy.port_rules[entity.id])
    draft.drop(entity)


def step(draft: Draft, draw: st.DrawFn) -> None:
    """One more change to a draft, with references that hold."""
    policy = draft.peek()
    match draw(st.sampled_from(KINDS)):
        case "hypervisor":
            uplinks = draw(st.none() | st.lists(texts, max_size=2).map(tuple))
            draft.put(Hypervisor(draw(st.sampled_from(DPIDS)), draw(texts), uplinks, draw(moments)))
        case "tag":
            draft.put(Tag(draw(accounts), draw(st.sampled_from(["web", "Web", "WEB", "db:1"]))))
        case "droplet":
            draft.put(Droplet(draw(droplet_ids), draw(accounts), draw(texts), draw(tag_names), draw(moments)))
        case "port" if policy.droplets and policy.hypervisors:
            interface = draw(st.none() | texts)
            draft.put(
                Port(
                    id=draw(st.sampled_from(["p1", "p2", "a.b:c-d_e"])),
                    droplet_id=draw(st.sampled_from(sorted(policy.droplets))),
                    hypervisor=draw(st.sampled_from(sorted(policy.hypervisors))),
                    interface=interface,
                    number=draw(st.integers(1, 0xFEFF)) if interface is None else None,
                    mac=draw(st.sampled_from(["00:01:02:03:04:05", "fe:ff:ff:ff:ff:ff"])),
                    addresses=tuple(draw(addresses)),
                    slot=draft.new_slot(),
                    created_at=draw(moments),
                )
            )
        case "firewall":
            key, account = draw(st.sampled_from(["f1", "f2", "f3"])), draw(accounts)
            taken = {f.name for f in policy.firewalls.values() if f.account == account and f.id != key}
            old = policy.firewalls.get(key)
            draft.put(
                Firewall(
                    id=key,
                    account=account,
                    name=draw(st.sampled_from([n for n in ("web", "db", "a.b", "x-y") if n not in taken])),
                    inbound_rules=draw(rule_lists(draft, old.inbound_rules if old else (), Direction.INBOUND)),
                    outbound_rules=draw(rule_lists(draft, old.outbound_rules if old else (), Direction.OUTBOUND)),
                    droplet_ids=tuple(draw(st.lists(droplet_ids | st.just(999), max_size=3))),
                    tags=draw(tag_names),
                    created_at=draw(moments),
                )
            )
        case "port_rules" if policy.ports:
            owner = draw(st.sampled_from(sorted(policy.ports)))
            found = policy.port_rules.get(owner)
            inbound = draw(rule_lists(draft, found.inbound_rules if found else (), Direction.INBOUND))
            outbound = draw(rule_lists(draft, found.outbound_rules if found else (), Direction.OUTBOUND))
            draft.put(PortRules(owner, draw(accounts), inbound, outbound))
        case "external_peer":
            uid, ids = draw(st.sampled_from(["lb", "LB", "k8s"])), tuple(draw(st.lists(droplet_ids, max_size=3)))
            draft.put(ExternalPeer(uid, draw(accounts), draw(texts), tuple(draw(addresses)), ids, draw(moments)))
        case "drop":
            tables = (
                policy.hypervisors,
                policy.tags,
                policy.droplets,
                policy.ports,
                policy.firewalls,
                policy.port_rules,
                policy.external_peers,
            )
            entities = [entity for table in tables for entity in table.values()]
            if entities:
                drop(draft, draw(st.sampled_from(entities)))
        case "trade" if len(policy.firewalls) > 1:
            one, two = list(policy.firewalls.values())[:2]
            draft.put(replace(one, account=two.account, name=two.name))
            draft.put(replace(two, account=one.account, name=one.name))


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(data=st.data())
def test_what_was_committed_is_what_a_fresh_store_loads(fresh: Fresh, data: st.DataObject) -> None:
    url = fresh()
    with closing(Store.open(url)) as store:
        policy, point = put(store, *one_of_each())
        for _ in range(data.draw(st.integers(1, 4))):
            draft = policy.edit()
            for _ in range(data.draw(st.integers(1, 8))):
                step(draft, data.draw)
            policy, point = keep(store, draft, point)
            loaded = store.load()
            assert_same(loaded[0], policy)
    with closing(Store.open(url)) as store:
        loaded = store.load()
    assert_same(loaded[0], policy)
    assert loaded[1].point == point


def test_everything_may_go_in_one_commit(store: Store) -> None:
    policy, point = put(store, *one_of_each())
    draft = policy.edit()
    for entity in one_of_each():
        draft.drop(entity)
    policy, _ = keep(store, draft, point)
    assert_same(store.load()[0], policy)
    assert_same(policy, Policy(counters=policy.counters))


def test_a_port_may_move_when_what_it_was_on_goes(store: Store) -> None:
    policy, point = put(store, *one_of_each())
    draft = policy.edit()
    draft.drop(policy.droplets[1])
    draft.drop(policy.hypervisors[DPIDS[0]])
    draft.put(Droplet(9))
    for key in ("p1", "p2"):
        draft.put(replace(policy.ports[key], droplet_id=9, hypervisor=DPIDS[1]))
    policy, _ = keep(store, draft, point)
    assert_same(store.load()[0], policy)


def test_moments_keep_their_microseconds_and_become_utc(store: Store) -> None:
    there = datetime(2025, 3, 1, 9, 0, 15, 123456, tzinfo=timezone(timedelta(minutes=-210)))
    put(store, Droplet(1, created_at=there))
    found = store.load()[0].droplets[1].created_at
    assert found == NOW
    assert found.tzinfo is UTC


def test_firewalls_may_trade_names_in_one_commit(store: Store) -> None:
    policy, point = put(store, firewall(name="one", key="f1"), firewall(name="two", key="f2"))
    draft = policy.edit()
    draft.put(replace(policy.firewalls["f1"], name="two"))
    draft.put(replace(policy.firewalls["f2"], name="one"))
    keep(store, draft, point)
    assert {f.id: f.name for f in store.load()[0].firewalls.values()} == {"f1": "two", "f2": "one"}


def test_a_rule_may_move_to_another_firewall(store: Store) -> None:
    policy, point = put(store, firewall(1, 2), firewall(name="other", key="f2"))
    draft = policy.edit()
    draft.drop(policy.firewalls["f1"])
    draft.put(replace(policy.firewalls["f2"], inbound_rules=(rule(2),)))
    policy, _ = keep(store, draft, point)
    assert_same(store.load()[0], policy)


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(port(droplet_id=7), id="droplet that does not exist"),
        pytest.param(port(slot=0), id="no slot"),
        pytest.param(firewall(name="web", key="f2"), id="name taken"),
        pytest.param(firewall(0, name="new", key="f2"), id="rule without id"),
        pytest.param(firewall(1, name="new", key="f2"), id="rule id of another firewall"),
        pytest.param(firewall(5, 5, name="new", key="f2"), id="new rule id twice"),
        pytest.param(firewall(1, 1), id="stored rule id twice"),
        pytest.param(Firewall("f2", "default", "new", (rule(5, Direction.OUTBOUND),)), id="wrong direction"),
        pytest.param(Droplet(5, created_at=datetime(2025, 1, 1)), id="moment without time zone"),
        pytest.param(Droplet(5, name="\ud800"), id="half a character"),
        pytest.param(PortRules("p9", "default"), id="port that does not exist"),
    ],
)
def test_a_commit_that_fails_writes_nothing_and_the_next_one_works(url: str, store: Store, wrong: Entity) -> None:
    put(store, Hypervisor(DPIDS[0], "h1"), Droplet(1), firewall(1, 2))
    before, history = store.load()
    with pytest.raises(StoreError):
        put(store, Tag("default", "early"), Droplet(2), wrong)
    with closing(Store.open(url)) as other:
        loaded = other.load()
    assert_same(loaded[0], before)
    assert loaded[1] == history
    _, after = put(store, Droplet(2))
    assert after.revision == history.revision + 1


def test_rule_ids_that_were_not_counted_are_refused(store: Store) -> None:
    draft = Policy().edit()
    draft.put(replace(firewall(1), number=7))
    with pytest.raises(StoreError, match="rule id 1 was not given out"):
        store.commit(draft.changes, draft.counters, store.newest())


def test_another_controllers_commit_is_noticed(url: str, store: Store) -> None:
    policy, point = put(store, Droplet(1))
    with closing(Store.open(url)) as other:
        put(other, Droplet(2))
    draft = policy.edit()
    draft.put(Droplet(3))
    with pytest.raises(StoreError, match=r"the store is at revision 2 of timeline .*, this controller at 1"):
        keep(store, draft, point)
    assert sorted(store.load()[0].droplets) == [1, 2]


def test_controllers_that_write_at_the_same_time_lose_nothing(url: str) -> None:
    """Each adds its own droplets and, when another was faster, loads and tries again."""

    def work(base: int) -> list[int]:
        kept = []
        with closing(Store.open(url)) as store:  # an empty database: both migrate, or one waits
            for number in range(base, base + 25):
                while True:
                    try:
                        kept.append(put(store, Droplet(number))[1].revision)
                        break
                    except StoreError as error:
                        assert "another controller has written" in str(error)  # noqa: PT017
        return kept

    with ThreadPoolExecutor(2) as threads:
        revisions = [revision for kept in threads.map(work, (100, 200)) for revision in kept]
    assert sorted(revisions) == list(range(1, 51))
    with closing(Store.open(url)) as store:
        policy, history = store.load()
    assert history.revision == 50
    assert sorted(policy.droplets) == [*range(100, 125), *range(200, 225)]


def test_a_row_that_vanished_is_noticed(url: str, store: Store) -> None:
    policy, point = put(store, Droplet(1))
    raw(url, "DELETE FROM droplets")
    draft = policy.edit()
    draft.drop(policy.droplets[1])
    with pytest.raises(StoreError, match="table droplets lacks rows"):
        keep(store, draft, point)


def test_rule_ids_never_go_back(url: str, store: Store) -> None:
    policy, point = put(store, firewall(1, 2, 3))
    draft = policy.edit()
    draft.drop(policy.firewalls["f1"])
    policy, point = keep(store, draft, point)
    with closing(Store.open(url)) as other:
        assert other.load()[0].edit().new_rule_id() == 4
    draft = policy.edit()
    draft.counters = replace(draft.counters, rule=2)
    with pytest.raises(StoreError, match="up to 3 are given out; they cannot go back to 2"):
        keep(store, draft, point)


def test_rule_sets_and_tags_of_a_database_of_before_are_given_numbers(url: str) -> None:
    """Of version 0001, in which only rules had any; no number is given twice, and the count goes on behind them."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(resources.files("firewall_app.store") / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        firewall = "INSERT INTO firewalls (id, account, name, droplet_ids, tags) VALUES"
        rule = "INSERT INTO rules (id, firewall_id, direction, position, protocol, first_port, last_port, peer) VALUES"
        for statement in (
            "INSERT INTO tags (account, key, name) VALUES ('default', 'web', 'Web')",
            "INSERT INTO tags (account, key, name) VALUES ('acme', 'web', 'web')",
            f"{firewall} ('f1', 'default', 'one', '[]', '[\"web\"]')",
            f"{firewall} ('f2', 'default', 'two', '[]', '[]')",
            f"{rule} (7, 'f1', 'inbound', 0, 'tcp', 80, 80, '{{}}')",
            "UPDATE counters SET value = 9 WHERE name = 'rule'",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = Store.open(url)
    policy, history = store.load()
    numbers = [found.number for found in (*policy.tags.values(), *policy.firewalls.values())]
    assert sorted(numbers) == [10, 11, 12, 13]
    assert policy.counters.rule == 13
    assert [rule.id for rule in policy.firewalls["f1"].inbound_rules] == [7]
    draft = policy.edit()
    draft.put(Tag("default", "new"))
    keep(store, draft, history.point)
    assert store.load()[0].tags["default", "new"].number == 14
    store.close()


def test_a_newer_schema_is_refused(url: str) -> None:
    Store.open(url).close()
    raw(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"schema version 9999, this program knows up to [0-9]+: .*restore a backup"):
        Store.open(url)


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE droplets SET tags = '[1]'", "table droplets, id 1: tags is"),
        ("UPDATE droplets SET tags = '{'", "table droplets, id 1: tags is no JSON"),
        ("UPDATE droplets SET created_at = '2025-01-01'", "table droplets, id 1: created_at"),
        ("UPDATE hypervisors SET uplinks = '7'", f"table hypervisors, dpid {DPIDS[0]}: uplinks is 7"),
        ("UPDATE tags SET key = 'other'", "table tags, account default, key other"),
        ("UPDATE ports SET mac = 'x'", "table ports, id p1: 'x' is not a MAC"),
        ("UPDATE firewalls SET name = ''", "table firewalls, id f1"),
        ("UPDATE rules SET protocol = 'any' WHERE id = 2", "table rules, id 2: 'any'"),
        ("UPDATE rules SET peer = '{\"everyone\": []}' WHERE id = 2", "table rules, id 2: peer is"),
        ("UPDATE rules SET last_port = 0 WHERE id = 2", "table rules, id 2: 2-0 is not a range"),
        ("UPDATE rules SET ports = '2-3' WHERE id = 2", "table rules, id 2: '2-3' does not mean 2-2"),
        ("UPDATE external_peers SET key = 'Lb'", "table external_peers, key Lb: key 'Lb' does not belong to uid 'Lb'"),
        ("UPDATE rules SET id = 9 WHERE id = 2", "table rules, id 9: the last id given out is 3"),
        ("DELETE FROM counters WHERE name = 'rule'", "table counters, name rule"),
    ],
)
def test_a_corrupt_row_is_named_and_nothing_is_loaded(url: str, store: Store, statement: str, where: str) -> None:
    other = ExternalPeer("Lb")
    put(store, Hypervisor(DPIDS[0], "h1"), Tag("default", "web"), Droplet(1), port(), firewall(1, 2), other)
    raw(url, statement)
    with pytest.raises(StoreError) as caught:
        store.load()
    assert str(caught.value).startswith(where)


# --------------------------------------------------------------------------------------------- cost


@contextmanager
def rows_written() -> Iterator[list[str]]:
    """Notes verb and table of every row that is written, `INSERT rules` say."""
    found: list[str] = []

    def note(statement: str, parameters: Any, many: bool) -> None:
        words = statement.split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            table = words[1] if words[0] == "UPDATE" else words[2]
            found.extend([f"{words[0]} {table}"] * (len(parameters) if many else 1))

    def send(connection: Connection, text: str, values: Any, many: bool = False) -> Any:
        note(text, values, many)
        return sent(connection, text, values, many)

    def note_other(*call: Any) -> None:
        note(call[2], call[3], call[5])

    sent = prepared.send
    event.listen(Engine, "before_cursor_execute", note_other)
    try:
        with mock.patch.object(prepared, "send", send):
            yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note_other)


def test_a_commit_writes_what_changed_and_no_more(store: Store) -> None:
    policy, point = put(store, Droplet(1), firewall(*range(1, 51)), firewall(51, name="other", key="f2"))
    f1 = policy.firewalls["f1"]

    def written(new: Firewall, last_rule: int) -> list[str]:
        nonlocal policy, point
        draft = policy.edit()
        draft.put(new)
        draft.counters = replace(draft.counters, rule=last_rule)
        with rows_written() as rows:
            policy, point = keep(store, draft, point)
        assert_same(store.load()[0], policy)
        return sorted(rows)

    one_more = replace(f1, inbound_rules=(*f1.inbound_rules, rule(52)))
    assert written(one_more, 52) == ["INSERT rules", "UPDATE counters", "UPDATE counters"]
    without_first = replace(one_more, inbound_rules=one_more.inbound_rules[1:])
    assert written(without_first, 52) == ["DELETE rules", "UPDATE counters"]
    middle = list(without_first.inbound_rules)
    middle[20] = replace(middle[20], peer=Peer(tags=("web",)))
    edited = replace(without_first, inbound_rules=tuple(middle))
    assert written(edited, 52) == ["UPDATE counters", "UPDATE rules"]
    middle[30] = replace(middle[30], ports=PortRange.parse("32-32"))
    edited = replace(edited, inbound_rules=tuple(middle))
    assert written(edited, 52) == ["UPDATE counters", "UPDATE rules"], "the same rule in another spelling"
    attached = replace(edited, droplet_ids=(1,))
    assert written(attached, 52) == ["UPDATE counters", "UPDATE firewalls"]


def test_what_fails_while_rows_are_fetched_is_told_too(path: Path) -> None:
    late = Prepared(text("SELECT abs(n) FROM (SELECT 1 AS n UNION ALL SELECT -9223372036854775807 - 1)"))
    with closing(Store.open(f"sqlite:///{path}")) as opened:
        with pytest.raises(StoreError, match="integer overflow"), opened._database.reading("try") as connection:
            late.rows(connection)
        assert opened.newest().revision == 0


def test_a_prepared_statement_has_no_values_of_its_own(store: Store) -> None:
    """They would be left out."""
    first = Prepared(select(schema.counters.c.name).limit(1))
    with pytest.raises(StoreError, match="LIMIT"), store._database.reading("try") as connection:
        first.rows(connection)


# --------------------------------------------------------------------------------------------- tokens


def test_tokens(url: str, store: Store) -> None:
    first = Token("t1", "hash1", "admin", None, "of the operator", NOW)
    second = Token("t2", "hash2", "account", "default", "", NOW + timedelta(microseconds=1))
    store.add_token(second)
    store.add_token(first)
    store.revoke_token("t1", NOW + timedelta(days=1))
    store.revoke_token("t1", NOW + timedelta(days=2))
    with closing(Store.open(url)) as other:
        assert other.tokens() == [replace(first, revoked_at=NOW + timedelta(days=1)), second]
    with pytest.raises(NotFound, match="'t3'"):
        store.revoke_token("t3", NOW)
    for taken in (replace(first, hash="other"), replace(first, id="t3")):
        with pytest.raises(StoreError) as caught:
            store.add_token(taken)
        assert "INSERT" not in str(caught.value)
    assert [token.id for token in store.tokens()] == ["t1", "t2"]
    assert store.load()[1].revision == 0


# --------------------------------------------------------------------------------------------- schema


def test_the_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    Store.open(url).close()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_heads() == (schema.VERSION,) == tuple(versions()[:1])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ports SET slot = 0",
        "UPDATE rules SET id = 4294967296",
        "UPDATE rules SET firewall_id = NULL",
        "UPDATE rules SET port_id = 'p1'",
    ],
)
def test_the_database_itself_refuses(url: str, store: Store, statement: str) -> None:
    put(store, Hypervisor(DPIDS[0], "h1"), Droplet(1), port(), firewall(1), PortRules("p1", "default"))
    with pytest.raises(Exception, match=r"(?i)constraint"):
        raw(url, statement)


ON_EVENTLET = """
import eventlet
eventlet.monkey_patch()
from eventlet import tpool
import sys
from firewall_app.policy.model import Droplet
from firewall_app.store import Store

store = tpool.execute(Store.open, sys.argv[1])
policy, history = tpool.execute(store.load)
point = history.point
for number in range(1, 60):  # more than there are native threads
    draft = policy.edit()
    draft.put(Droplet(number))
    changes, counters = draft.changes, draft.counters
    policy = draft.done()
    point = tpool.execute(store.commit, changes, counters, point)
kept = tpool.execute(store.load)
assert (kept[0], kept[1].revision) == (policy, 59)
tpool.execute(store.close)
print("done")
"""


def test_it_works_in_the_native_threads_of_a_patched_program(url: str) -> None:
    command = [sys.executable, "-c", ON_EVENTLET, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


# --------------------------------------------------------------------------------------------- SQLite alone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "firewall.db"


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Store.open(f"sqlite:///{path}")) as store:
            put(store, Droplet(1))
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"firewall.db": 0o600, "firewall.db-wal": 0o600, "firewall.db-shm": 0o600}


def test_sqlite_is_told_to_be_durable_and_strict(path: Path) -> None:
    with closing(Store.open(f"sqlite:///{path}")) as store, store._database.reading("look") as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"directory {tmp_path}/no of the store does not exist; create it"):
        Store.open(f"sqlite:///{tmp_path}/no/firewall.db")


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        Store.open(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("something else\n" * 100)
    with pytest.raises(StoreError, match=r"cannot open in sqlite:.*firewall\.db: file is not a database"):
        Store.open(f"sqlite:///{path}")
    assert path.read_text() == "something else\n" * 100


def test_a_file_that_cannot_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "firewall.db")
        Store.open(f"sqlite:///{path}").close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:  # whom no mode keeps out
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match=r"cannot open in sqlite.*firewall\.db: .*(readonly|unable)"):
                Store.open(f"sqlite:///{path}")
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_another_process_that_holds_the_lock_is_an_error_not_a_hang(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    with closing(Store.open(f"sqlite:///{path}")) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            put(store, Droplet(1))
        other.rollback()
        assert put(store, Droplet(1))[1].revision == 1


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE ports SET number = '1x'", "table ports, id p1: number is '1x', not a number"),
        ("UPDATE ports SET droplet_id = 8", "table ports, id p1: droplet 8 does not exist"),
        ("UPDATE ports SET hypervisor = '8'", "table ports, id p1"),
        ("UPDATE droplets SET name = x'00'", "table droplets, id 1: name is b'\\x00', not text"),
        ("UPDATE droplets SET name = CAST(x'ff' AS TEXT)", "cannot read table droplets"),
        ("UPDATE port_rule_sets SET port_id = 'p2'", "table port_rule_sets, port_id p2"),
        ("UPDATE rules SET firewall_id = 'f2' WHERE id = 2", "table rules, id 2: its firewall or port"),
        ("UPDATE rules SET position = 'last' WHERE id = 2", "table rules, id 2: position"),
    ],
)
def test_rows_that_only_sqlite_would_take_are_named_too(path: Path, statement: str, where: str) -> None:
    url = f"sqlite:///{path}"
    with closing(Store.open(url)) as store:
        put(store, Hypervisor(DPIDS[0], "h1"), Droplet(1), port(), firewall(1, 2), PortRules("p1", "default"))
        raw(url, statement)
        with pytest.raises(StoreError) as caught:
            store.load()
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("firewall.db", "the store's URL is not understood"),
        ("mysql://root:secret@localhost/x", "cannot be in 'mysql'"),
        ("sqlite:///x.db?mode=ro", "options in a SQLite URL"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(text: str, problem: str) -> None:
    with pytest.raises(StoreError, match=problem) as caught:
        Store.open(text)
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------------------------- timelines


def test_each_opening_writes_on_a_timeline_of_its_own_that_is_loaded_again(url: str, store: Store) -> None:
    first = store.load()[1]
    assert (first.revision, len(first.starts)) == (0, 1)
    _, one = put(store, Droplet(1))
    _, two = put(store, Droplet(2))
    with closing(Store.open(url)) as other:
        assert other.newest() == two
        _, three = put(other, Droplet(3))
        history = other.load()[1]
    assert one.timeline == two.timeline not in (first.point.timeline, three.timeline)
    assert history.starts == (first.point, one, three)
    assert all(history.knows(point) for point in (one, two, three))
    store.branch()
    policy, history = store.load()
    draft = policy.edit()
    draft.put(Droplet(4))
    assert keep(store, draft, history.point)[1].timeline not in {start.timeline for start in history.starts}


def test_a_database_that_was_replaced_at_the_same_revision_is_noticed(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in "ab"]
    points = []
    for url in urls:
        with closing(Store.open(url)) as store:
            points.append(put(store, Droplet(1))[1])
    with closing(Store.open(urls[1])) as store:
        draft = store.load()[0].edit()
        draft.put(Droplet(2))
        with pytest.raises(StoreError, match="the database was replaced"):
            keep(store, draft, points[0])


def test_what_an_operator_confirmed_is_kept(url: str, store: Store) -> None:
    store.supersede(Point(77, 5))
    store.supersede(Point(77, 4))
    with closing(Store.open(url)) as other:
        assert dict(other.load()[1].superseded) == {77: 5}
