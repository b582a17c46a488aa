"""Prints docs/pipeline.md from the declarations, so that page and code cannot disagree.

    python -m firewall_app.pipeline > docs/pipeline.md

The flows on the page are those of a small example, compiled; a test fails when the page is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getdoc

from ..policy.model import Direction, Droplet, Firewall, Hypervisor, Peer, Port, PortRange, Protocol, Rule, Tag
from ..policy.policy import Policy
from .compile import Rulings
from .flow import texts
from .plan import units
from .tables import COOKIE_MASK, LAYOUT, MAGIC, REGISTERS, TABLES, Kind, Table
from .unit import Fence, Generation, Unit, UnitKey

DPID = "0000000000000001"
INTERFACES = {1: "eth0", 2: "tap1", 3: "tap2"}
GENERATION = 7
TIMELINE = 0x5E7A31C90B2D4F68

_HEAD = """\
# The pipeline

*This page is printed from `firewall_app/pipeline/` by `make docs`. Do not edit it.*

What a hypervisor's bridge holds. Every packet enters table 0; a packet between two droplets of one hypervisor passes
twice, once on its way out of the sender and once on its way into the receiver, so both ends' rules are asked.

```
                    from a droplet port                        from an uplink
                            |                                        |
                     +------v------+                                 |
                  0  | is it who   |  no: dropped, counted           |
                     | it claims?  |                                 |
                     +--+-------+--+                                 |
     ARP, ND, DHCP      |       |  IP                                |
          +-------------+       +-----------------+------------------+
          |                                       |
          |                        +--------------v---------------+
          |                        |  whose half is this?         |  c1
          |                        |  zone of the droplet port    |
          |                        +--------------+---------------+
          |                                       | ct(zone)
          |                        +--------------v---------------+
          |   judged already at    |  known connection?           |  c2   behind no firewall: to c4
          +<-----------------------+  of the present generation?  |
          |   this generation      +--------------+---------------+
          |                                       | no: under the tuple of its first packet
          |                        +--------------v---------------+
          |                        |  which firewalls is it       |  c3
          |                        |  behind?  for each of them:  |
          |                        |   which sets do its rules    |  c3s
          |                        |   name?  for each of them:   |
          |                        |    is the peer a member?     |  c3p
          |                        |    does a rule allow it?     |  c3r
          |                        +--------------+---------------+
          |                        +--------------v---------------+
          |                        |  commit: generation, rule id |  c4   no rule: dropped, counted
          |                        +--------------+---------------+
          |                                       |
        +-v---------------------------------------v-+
     z  |  deliver: port, other half, or uplink     |
        +-------------------------------------------+
```

**The generation.** A connection is judged when it opens and its `ct_mark` then holds the policy's generation. As long
as that is the present one its packets pass in c2 without being judged again. A change that takes something away
raises the generation in the same bundle, so the next packet of every connection, in either direction, is judged
again, by the rules of the side that opened it: one that is still allowed is marked anew and loses nothing; one that
no rule allows any more stops. Nothing is flushed and no connection is looked for.

**Sums, not products.** A port's flow in c3 lists the firewalls that it is behind; a firewall's flow in c3s lists the
address sets that its rules name; each address of a set is one flow in c3p, and each port mask of a rule one in c3r. So
droplets, addresses and rules add up and never multiply. An address that joins a tag is one flow for the direction in
which rules name the tag as a source and one for that in which they name it as a destination, however many rules and
droplets there are. A rule of few addresses needs no set: it is spelled out in c3r. Every rule has flows of its own
there, so their counters say what it admitted.
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## Registers, marks and zones\n"
    yield "| where | name | holds |\n|---|---|---|"
    for register in REGISTERS:
        yield f"| `{register.where.text}` | {register.name} | {register.meaning} |"
    yield f"""
## Cookies

Bits 63 to 48 are `{MAGIC:#x}` in every flow of ours; only such flows are ever read, changed or deleted
(mask `{COOKIE_MASK:#x}`). Bits 47 to 40 say what a flow comes from, 39 to 32 are the layout version ({LAYOUT}),
31 to 0 what is said below.

| kind | number | comes from |
|---|---|---|"""
    for kind, text in (
        (Kind.STATIC, "the pipeline itself"),
        (Kind.PORT, "a droplet port; low bits: its slot"),
        (Kind.RULE, "a rule; low bits: the rule's id"),
        (Kind.FIREWALL, "what a firewall asks; low bits: its number"),
        (Kind.TAG, "an address of a droplet with a tag, or of an external peer; low bits: the number of either"),
        (
            Kind.PICKUP,
            "lets a droplet go on in the middle of TCP connections, `pickup_grace` seconds; low bits: its slot",
        ),
        (Kind.SYSTEM, "what always passes a droplet port (ARP, ND, DHCP); low bits: its slot"),
        (Kind.DROP, "a drop counted for one port; low bits: its slot"),
    ):
        yield f"| {kind.name.lower()} | {kind.value} | {text} |"
    yield "\n## Tables\n"
    for table in TABLES:
        yield from _table(table)
    yield from _example()


def _table(table: Table) -> Iterator[str]:
    by_id = {t.id: t.name for t in TABLES}
    yield f"### Table {table.name} (id {table.id})\n"
    yield f"{table.purpose}\n"
    yield f"- may match: {', '.join(f'`{name}`' for name in sorted(table.may_match))}"
    yield f"- may write: {', '.join(f'`{name}`' for name in sorted(table.may_write)) or 'nothing'}"
    yield f"- goes to: {', '.join(by_id[i] for i in sorted(table.goes_to)) or 'no table'}"
    yield f"- what matches nothing: {table.miss}\n"


def example() -> tuple[Policy, dict[UnitKey, Unit]]:
    """The policy on the page, and its units: `web` behind a firewall with one rule, `db` behind none."""
    draft = Policy().edit()
    draft.put(Hypervisor(DPID, "hv-1", ("eth0",)))
    for tag in ("web", "db"):
        draft.put(Tag("default", tag))
    draft.put(Droplet(101, name="web", tags=("web",)))
    draft.put(Droplet(102, name="db", tags=("db",)))
    for number in (1, 2):
        addresses = (f"1.1.1.{number}",) if number == 2 else ("1.1.1.1", "2001:db8::1")
        draft.put(
            Port(
                f"port-{number}", 100 + number, DPID, f"tap{number}", None, f"00:01:02:03:04:0{number}", addresses,
                slot=draft.new_slot(),
            )
        )  # fmt: skip
    rule = Rule(
        Direction.INBOUND, Protocol.TCP, PortRange(443, 443), Peer(("1.1.2.0/24",), tags=("db",)),
        draft.new_rule_id(),
    )  # fmt: skip
    draft.put(Firewall("6b6e0e2e-55b5-4d0b-9d7e-0d5a4a3c0001", "default", "web-fw", (rule,), (), (), ("web",)))
    policy = draft.done()
    found = units(policy, DPID, INTERFACES, Rulings())
    found["generation", ""] = Generation(GENERATION)
    found["fence", ""] = Fence(TIMELINE, 1)
    return policy, found


def _example() -> Iterator[str]:
    _, found = example()
    yield """## An example, flow by flow

A hypervisor with the uplink `eth0` (port 1) and two droplets: 101 with the tag `web` on `tap1` (port 2), behind a
firewall on that tag with the one rule *inbound tcp 443 from 1.1.2.0/24 and the tag `db`*; and 102, with that tag, on
`tap2` (port 3), behind none. The flows come from units, each compiled from its own few values; a change recompiles only
units whose values differ. Every line is what `ovs-ofctl add-flow` reads.
"""
    for name in sorted(found, key=_order):
        unit = found[name]
        yield f"### {type(unit).__name__} {name[1]}".rstrip() + "\n"
        yield f"{getdoc(unit)}\n"
        values = ", ".join(f"{k}={_value(v)}" for k, v in vars(unit).items())
        if values:
            yield f"Compiled from: `{values}`.\n"
        yield "```"
        yield from texts(unit.flows())
        yield "```\n"


def _value(value: object) -> str:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return "(" + ", ".join(map(_value, value)) + ")"
    return str(getattr(value, "value", value)) if not isinstance(value, tuple) else str(value)


def _order(name: UnitKey) -> tuple[int, str]:
    kinds = [
        "static",
        "generation",
        "fence",
        "uplinks",
        "flood",
        "guards",
        "protection",
        "rules of",
        "firewall",
        "tag",
        "rule",
    ]
    return kinds.index(name[0]), name[1]
