"""What is written is what is read: every field of a rule, its order, case and spelling, from a store that was reopened.

Of rules written through the schemas of the API into a SQLite file.  Only what docs/api.md names is made alike: numbers
as text, `all` as `0`, ids as digits, and lists that are empty.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fakecore import ThreadRuntime
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall_app.api import schemas
from firewall_app.policy.model import Droplet, ExternalPeer, Hypervisor, Port, Tag
from firewall_app.service import describe, external, firewalls, hypervisors
from firewall_app.service.core import Core
from firewall_app.store import Store

Json = dict[str, Any]
DPID = "0000000000000001"

# --------------------------------------------------------------------------------------------- what may be written

numbers = st.integers(1, 65535)
spelled_ports = st.one_of(
    st.sampled_from(["0", "1-65535", "1-1", "65535-65535"]),
    numbers.map(str),
    numbers.map(lambda number: f"{number}-{number}"),
    st.tuples(numbers, numbers).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}"),
)
# Written, and read back.
ports = st.one_of(
    spelled_ports.map(lambda text: (text, text)),
    numbers.map(lambda number: (number, str(number))),
    st.sampled_from([(0, "0"), ("all", "0")]),
)
icmp_ports = st.sampled_from([("1-65535", "1-65535"), ("0", "0"), ("", "0"), ("all", "0"), (0, "0"), (None, "0")])


def spellings(text: str) -> list[str]:
    """One address or prefix as different people write it."""
    return [text, text.upper(), f"{text}/24", f"{text}/32"]


addresses = st.one_of(
    st.ip_addresses(v=4).map(str).flatmap(lambda text: st.sampled_from(spellings(text))),
    st.ip_addresses(v=6).flatmap(lambda ip: st.sampled_from([*spellings(str(ip)), *spellings(ip.exploded)])),
    st.sampled_from(["0.0.0.0/0", "::/0", "::ffff:192.0.2.1", "::FFFF:192.0.2.1/120", "2001:DB8:0:0::1", "1::/00"]),
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
uids = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda uid: str(uid).upper()),
    st.from_regex("[A-Za-z0-9._:-]{1,64}", fullmatch=True),
)
ids = st.sampled_from([(1, 1), ("1", 1), (2, 2), ("2", 2), (2**53, 2**53)])


def lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, list[Any]]]:
    """Written, and read back; with duplicates."""
    pairs = items.map(lambda item: item if isinstance(item, tuple) else (item, item))
    found = st.lists(pairs, min_size=1, max_size=3).flatmap(
        lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=4)
    )
    return st.one_of(
        found.map(lambda some: ([one for one, _ in some], [other for _, other in some])),
        st.sampled_from([(None, []), ([], [])]),
    )


peers = st.fixed_dictionaries(
    {},
    optional={
        "addresses": lists(addresses),
        "droplet_ids": lists(ids),
        "tags": lists(st.sampled_from(["web", "WEB", "Web", "db:1"])),
        "load_balancer_uids": lists(uids),
        "kubernetes_ids": lists(uids),
    },
)


@st.composite
def rules(draw: st.DrawFn, key: str) -> tuple[Json, Json]:
    protocol = draw(st.sampled_from(["tcp", "udp", "icmp"]))
    written, read = draw(icmp_ports if protocol == "icmp" else ports)
    peer = draw(peers)
    return (
        {"protocol": protocol, "ports": written, key: {name: pair[0] for name, pair in peer.items()}},
        {"protocol": protocol, "ports": read, key: {name: pair[1] for name, pair in peer.items() if pair[1]}},
    )


@st.composite
def rule_sets(draw: st.DrawFn) -> tuple[Json, Json]:
    """Rules of both directions, some of them twice: what is written, and what is to be read."""
    written, read = {}, {}
    for name, key in (("inbound_rules", "sources"), ("outbound_rules", "destinations")):
        some = draw(st.lists(rules(key), max_size=3))
        some = draw(st.lists(st.sampled_from(some), max_size=5)) if some else []
        written[name], read[name] = [one for one, _ in some], [other for _, other in some]
    return written, read


# --------------------------------------------------------------------------------------------- written and read


def opened(url: str) -> tuple[Store, Core]:
    store = Store.open(url)
    return store, Core(*store.load(), store, ThreadRuntime())


def furnish(url: str) -> None:
    store, core = opened(url)
    with closing(store):
        core.write(
            lambda draft: [
                draft.put(one)
                for one in (
                    Hypervisor(DPID, "hv"), Tag("default", "web"), Tag("default", "db:1"), Droplet(1), Droplet(2),
                    Droplet(2**53), Port("p1", 1, DPID, "tap1", None, "02:00:00:00:00:01", slot=1),
                )
            ]
        )  # fmt: skip


def echo(owner: Any) -> Json:
    return {
        "inbound_rules": describe.rules(owner.inbound_rules),
        "outbound_rules": describe.rules(owner.outbound_rules),
    }


def write_firewall(core: Core, body: Json) -> Json:
    spec = schemas.parse(schemas.FirewallBody, {"name": "web", **body}).spec()
    known = next(iter(core.policy.firewalls), None)
    if known is None:
        return echo(firewalls.create(core, "default", spec).value)
    return echo(firewalls.update(core, "default", known, spec).value)


def write_port(core: Core, body: Json) -> Json:
    found = schemas.parse(schemas.PortRulesBody, body)
    return echo(hypervisors.replace_rules(core, "p1", found.inbound(), found.outbound()).value)


@settings(max_examples=40)
@given(st.lists(rule_sets(), min_size=1, max_size=3), st.sampled_from([write_firewall, write_port]))
def test_rules_are_read_as_they_were_written_and_writing_that_changes_nothing(
    bodies: list[tuple[Json, Json]], write: Any
) -> None:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/echo.db"
        furnish(url)
        for written, read in bodies:
            store, core = opened(url)
            with closing(store):
                assert write(core, written) == read
            store, core = opened(url)
            with closing(store):
                (owner,) = (*core.policy.firewalls.values(), *core.policy.port_rules.values())
                assert echo(owner) == read
                revision = core.revision
                assert write(core, echo(owner)) == read
                assert core.revision == revision, "what was read was written back"


@settings(max_examples=40)
@given(lists(addresses), lists(ids), uids)
def test_external_peers_are_read_as_they_were_written(addresses: Any, droplet_ids: Any, uid: str) -> None:
    body = schemas.parse(schemas.ExternalPeerBody, {"addresses": addresses[0], "droplet_ids": droplet_ids[0]})
    wanted = ExternalPeer(uid, addresses=tuple(body.addresses or ()), droplet_ids=tuple(body.droplet_ids or ()))
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/echo.db"
        furnish(url)
        store, core = opened(url)
        with closing(store):
            external.put(core, wanted)
        store, core = opened(url)
        with closing(store):
            found = describe.entity(external.find(core.policy, uid.upper()))
    assert (found["uid"], found["addresses"], found["droplet_ids"]) == (uid, addresses[1], droplet_ids[1])
