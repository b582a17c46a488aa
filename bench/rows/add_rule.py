"""One rule more on one port of a loaded policy."""

from __future__ import annotations

from .. import changes

ROW = changes.of_one_rule(
    name="add-rule",
    title="Add one rule to one port at 200 x 50",
    about=(
        "A rule is added to the firewall of one port: from the HTTP request on an open connection to the answer "
        "with `Prefer: wait`, so it is durable (SQLite, `synchronous=FULL`) and committed by the switch. "
        "*OpenFlow from memory* is one flow in a bundle of its own, the least that the switch itself needs. OVN: "
        "one transaction on an open connection to the northbound database, until the hypervisor has it. Neutron's "
        "driver: until it has flushed. rest_firewall: until a flow monitor shows the flow, which no store keeps. "
        "The same at 10 ports x 10 rules. Rules are added and removed in turns, at other ports each time."
    ),
    kind=changes.ADD,
)
