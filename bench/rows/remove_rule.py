"""One rule less; connections are judged again."""

from __future__ import annotations

from .. import changes, judges
from ..row import Row

TITLE = "Remove it (connections are judged again)"

ROW = Row(
    name="remove-rule",
    title=TITLE,
    about=(
        "The rule that was added is taken away, measured in the same turns as add-rule. Here the same bundle has "
        "all live connections of the hypervisor judged again by their next packet, so that those end that no rule "
        "allows any more; OVN leaves them until their entry is judged by the new flows, too; Neutron's driver "
        "deletes their entries, which is left out here; rest_firewall has no connections."
    ),
    measure=changes.measure(changes.REMOVE),
    targets=(
        judges.at_most("median 4 ms", changes.REMOVE, 4),
        judges.at_most("p99 20 ms", changes.REMOVE, 20, share=0.99),
        judges.times("at most 1.5 times of 10 x 10", changes.REMOVE, 1.5, of=changes.REMOVE + changes.SMALLER),
    ),
    plots=(changes.plot("remove-rule", TITLE, changes.REMOVE),),
    headline=(changes.REMOVE,),
)
