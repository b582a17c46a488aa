"""One droplet more with a tag that rules of all ports name."""

from __future__ import annotations

from collections.abc import Sequence

from .. import changes, judges
from ..row import Row, Series, Target, Verdict

OWN = 4  # for an address of IPv4 and one of IPv6


def _flow_mods(series: Sequence[Series]) -> Verdict:
    """Less those that any change sends, whatever it is: as many as for a rule that is one flow, less that one."""
    joining = judges.find(series, changes.SENT + changes.JOIN)
    adding = judges.find(series, changes.SENT + changes.ADD)
    if joining is None or adding is None:
        return Verdict(False, "not measured")
    common = adding.median - 1
    own = joining.median - common
    return Verdict(own <= OWN, f"{own:.0f} for both, and {common:.0f} that any change sends")


TITLE = "Add one member to a tag that 200 ports use"

ROW = Row(
    name="add-member",
    title=TITLE,
    about=(
        "A droplet elsewhere gets the tag that a rule of each of the 200 firewalls names: one address of IPv4 and "
        "one of IPv6 (link-local) more in what the 200 rules allow. From the HTTP request to the answer with "
        "`Prefer: wait`: both hypervisors, the one with the ports and the droplet's own, have confirmed. "
        "Flow-mods are read from the wire. OVN: an Address_Set with one address more; Neutron's driver: a remote "
        "group with one more, after which it sets up each port anew. rest_firewall has no sets."
    ),
    measure=changes.measure(changes.JOIN, sent=(changes.ADD, changes.JOIN)),
    targets=(
        judges.at_most("median 5 ms", changes.JOIN, 5),
        Target("at most 2 flow-mods per hypervisor for each IP version", _flow_mods),
    ),
    plots=(changes.plot("add-member", TITLE, changes.JOIN),),
    headline=(changes.JOIN,),
)
