"""One rule less; connections are judged again."""

from __future__ import annotations

from .. import changes

ROW = changes.of_one_rule(
    name="remove-rule",
    title="Remove it (connections are judged again)",
    about=(
        "The rule that was added is taken away, measured in the same turns as add-rule. Here the same bundle has "
        "all live connections of the hypervisor judged again by their next packet, so that those end that no rule "
        "allows any more; OVN leaves them until their entry is judged by the new flows, too; Neutron's driver "
        "deletes their entries, which is left out here; rest_firewall has no connections."
    ),
    kind=changes.REMOVE,
)
