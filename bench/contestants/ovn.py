"""OVN as a peer: all of it (northbound and southbound databases, ovn-northd, ovn-controller) on one machine.

One logical switch; each port has a port group of its own with its ACLs, and the set of addresses is an Address_Set.
`shared` is OVN's other layout: one group of all ports with one set of ACLs.  A change is one transaction on an open
connection to the northbound database that also raises `nb_cfg`, and is done when `hv_cfg` says that the hypervisor
has it.  The databases are files, without `fsync` on the way of a change (OVSDB's own way).
"""

from __future__ import annotations

from typing import Any

from lab.network import Lab

from .. import ovn as daemons
from ..ovsdb import Ovsdb
from ..policies import Size, address, mac, member_address, service, source
from . import NEW_SERVICE, add_interfaces, flow_count, new_source, port_of, seconds

SET = "members"
NEW_PRIORITY = 1003  # of rules that are added, by which they are found


class Ovn:
    def __init__(self, lab: Lab, size: Size, tag: str = "", shared: bool = False) -> None:
        self.size, self.shared = size, shared
        self.name = daemons.version() + (", one group" if shared else "")
        host = lab.add_hypervisor(f"ovn{tag}{'s' if shared else ''}", f"{len(lab.hypervisors) + 1:016x}")
        self.ovs, self._bridge = host.ovs, host.bridge
        directory = self.ovs.directory / "ovn"
        lab.keep(daemons.Ovn(directory, host))
        interfaces = (f"t{port}" for port in range(size.ports))
        add_interfaces(self.ovs, self._bridge, interfaces, lambda port: [f"external_ids:iface-id=p{port}"])
        self._nb = lab.keep(Ovsdb(directory / "nb.sock", "OVN_Northbound"))
        self._synced()
        self._group_count = 1 if shared else size.ports

    # ---- everything

    def load(self) -> float:
        return seconds(lambda: self._synced(*self._all()))

    def unload(self) -> None:
        tables = ("Port_Group", "Address_Set", "Logical_Switch")
        self._synced(*({"op": "delete", "table": table, "where": []} for table in tables))

    def flows(self) -> int:
        return flow_count(self.ovs, self._bridge)

    def _all(self) -> list[dict[str, Any]]:
        size = self.size
        ops: list[dict[str, Any]] = []
        for port in range(size.ports):
            own = f"{mac(port)} {address(port)}"
            named = {"name": f"p{port}", "addresses": own, "port_security": own}
            ops.append({"op": "insert", "table": "Logical_Switch_Port", "uuid-name": f"p_{port}", "row": named})
        ports = [["named-uuid", f"p_{port}"] for port in range(size.ports)]
        ops.append({"op": "insert", "table": "Logical_Switch", "row": {"name": "sw0", "ports": ["set", ports]}})
        members = [member_address(member) for member in range(size.members)]
        ops.append({"op": "insert", "table": "Address_Set", "row": {"name": SET, "addresses": ["set", members]}})
        for group in range(self._group_count):
            acls = [self._acl(group, rule, ops) for rule in range(size.rules)] + [self._drop(group, ops)]
            here = ports if self.shared else [ports[group]]
            row: dict[str, Any] = {"name": _group(group), "acls": ["set", acls], "ports": ["set", here]}
            ops.append({"op": "insert", "table": "Port_Group", "row": row})
        return ops

    def _acl(self, group: int, rule: int, ops: list[dict[str, Any]]) -> list[str]:
        peer = f"${SET}" if rule == 0 else source(group, rule)
        row = _allowing(group, peer, service(rule), 1002)
        ops.append({"op": "insert", "table": "ACL", "uuid-name": f"a_{group}_{rule}", "row": row})
        return ["named-uuid", f"a_{group}_{rule}"]

    def _drop(self, group: int, ops: list[dict[str, Any]]) -> list[str]:
        row = {
            "direction": "to-lport",
            "priority": 1000,
            "action": "drop",
            "match": f"outport == @{_group(group)} && ip",
        }
        ops.append({"op": "insert", "table": "ACL", "uuid-name": f"d_{group}", "row": row})
        return ["named-uuid", f"d_{group}"]

    # ---- changes

    def add_rule(self, number: int) -> float:
        group = self._group_of(number)
        row = _allowing(group, new_source(number), NEW_SERVICE, NEW_PRIORITY)
        change = (
            {"op": "insert", "table": "ACL", "uuid-name": "added",
             "row": {**row, "external_ids": ["map", [["number", str(number)]]]}},
            {"op": "mutate", "table": "Port_Group", "where": [["name", "==", _group(group)]],
             "mutations": [["acls", "insert", ["set", [["named-uuid", "added"]]]]]},
        )  # fmt: skip
        return 1000 * seconds(lambda: self._synced(*change))

    def remove_rule(self, number: int) -> float:
        where = [["priority", "==", NEW_PRIORITY], ["external_ids", "includes", ["map", [["number", str(number)]]]]]
        (found,) = self._nb.transact({"op": "select", "table": "ACL", "where": where, "columns": ["_uuid"]})
        rows = [row["_uuid"] for row in found["rows"]]
        change = {"op": "mutate", "table": "Port_Group", "where": [["name", "==", _group(self._group_of(number))]],
                  "mutations": [["acls", "delete", ["set", rows]]]}  # fmt: skip
        return 1000 * seconds(lambda: self._synced(change))

    def add_member(self) -> float:
        return self._member("insert")

    def remove_member(self) -> float:
        return self._member("delete")

    def _member(self, kind: str) -> float:
        change = {"op": "mutate", "table": "Address_Set", "where": [["name", "==", SET]],
                  "mutations": [["addresses", kind, ["set", [member_address(self.size.members)]]]]}  # fmt: skip
        return 1000 * seconds(lambda: self._synced(change))

    def _group_of(self, number: int) -> int:
        return 0 if self.shared else port_of(number, self.size)

    def _synced(self, *operations: dict[str, Any]) -> None:
        """One transaction; returns when the hypervisor has it."""
        bump = {"op": "mutate", "table": "NB_Global", "where": [], "mutations": [["nb_cfg", "+=", 1]]}
        look = {"op": "select", "table": "NB_Global", "where": [], "columns": ["nb_cfg"]}
        number = self._nb.transact(*operations, bump, look)[-1]["rows"][0]["nb_cfg"]
        self._nb.transact({"op": "wait", "timeout": 100_000, "table": "NB_Global", "where": [], "columns": ["hv_cfg"],
                           "until": "==", "rows": [{"hv_cfg": number}]})  # fmt: skip


def _group(number: int) -> str:
    return f"pg{number}"


def _allowing(group: int, peer: str, port: int, priority: int) -> dict[str, Any]:
    match = f"outport == @{_group(group)} && ip4 && ip4.src == {peer} && tcp && tcp.dst == {port}"
    return {"direction": "to-lport", "priority": priority, "action": "allow-related", "match": match}
