"""The firewall at work, told in a terminal: two hypervisors, five droplets, a host outside, real packets.

    make demo            # tells the story, cleans up, ends with 0 when everything went as the policy means
    make demo KEEP=1     # stays up afterwards, to go on by hand, until Ctrl-C

After every step the table shows who reaches whom: expected, computed from the policy, beside probed, with packets.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace

from firewall_app.policy.decide import Packet, Verdict, decide

from .cloud import EVERYWHERE, Cloud, inbound, outbound
from .controller import Controller, free_port
from .network import Lab
from .system import LabError
from .truth import Case, all_pairs, table

BOLD, GREEN, RED, OFF = "\033[1m", "\033[32m", "\033[31m", "\033[0m"
SERVICES = (("tcp", 80), ("tcp", 22), ("udp", 53), ("icmp", 0))
# name -> (hypervisor, droplet id, tags)
DROPLETS = {
    "web-1": ("hv1", 101, ("web",)),
    "web-2": ("hv1", 102, ("web",)),
    "admin": ("hv1", 103, ("admin",)),
    "web-3": ("hv2", 104, ("web",)),
    "db-1": ("hv2", 105, ()),
}


class Story:
    """Says what happens, does it, and shows whether packets agree."""

    def __init__(self, cloud: Cloud, color: bool) -> None:
        self.cloud, self.color = cloud, color
        self.step, self.wrong, self.probed = 0, 0, 0

    def paint(self, style: str, text: str) -> str:
        return f"{style}{text}{OFF}" if self.color else text

    def chapter(self, title: str, text: str) -> None:
        self.step += 1
        print("\n" + self.paint(BOLD, f"{self.step}. {title}"))
        print(textwrap.fill(" ".join(text.split()), 100) + "\n", flush=True)

    def request(self, method: str, path: str, body: object = None) -> dict:
        """Makes a request and shows it."""
        said = f"  {method} {path}"
        print(said + (f" {json.dumps(body)}" if body is not None else ""))
        started = time.monotonic()
        answer = self.cloud.call(method, path, body)
        took = (time.monotonic() - started) * 1000
        print(f"  stored, and confirmed by every switch concerned, in {took:.0f} ms\n", flush=True)
        return answer

    def truth(self) -> None:
        """Probes everybody to everybody, both IP versions; shows IPv4, and IPv6 if it differs."""
        started = time.monotonic()
        cases = all_pairs(self.cloud.lab.machines, SERVICES)
        expected, probed, wrong = self.cloud.compare(cases)
        self.show(expected, probed, wrong, f"{time.monotonic() - started:.1f} s")

    def show(self, expected: dict, probed: dict, wrong: list[Case], took: str) -> None:
        shown = {c: e for c, e in expected.items() if c.version == 4} or expected
        print(table(shown, {c: probed[c] for c in shown}))
        rest = [c for c in wrong if c not in shown]
        for case in rest:
            print(f"  {case.text}: expected {'pass' if expected[case] else 'stop'}, probed {probed[case]}")
        self.wrong += len(wrong)
        self.probed += len(expected)
        sixes = sum(c.version == 6 for c in expected)
        also = f", {sixes} of them over IPv6 (not shown)" if len(shown) < len(expected) else ""
        verdict = self.paint(RED, f"{len(wrong)} NOT AS EXPECTED") if wrong else self.paint(GREEN, "all as expected")
        print(f"{len(expected)} probes{also} in {took}: {verdict}", flush=True)

    def check(self, what: str, packet: Packet, opening: Packet | None, passed: bool) -> None:
        """One packet: what the policy means for it, beside what became of it."""
        decision = decide(self.cloud.policy(), packet, opening)
        right = (decision.verdict is Verdict.ALLOW) == passed
        self.probed += 1
        self.wrong += not right
        mark = self.paint(GREEN, "as expected") if right else self.paint(RED, "NOT AS EXPECTED")
        print(f"  {what}")
        print(f"    expected {'pass' if decision.verdict is Verdict.ALLOW else 'stop'}: {decision.reason}")
        print(f"    probed   {'pass' if passed else 'stop'}   {mark}", flush=True)


def tell(story: Story) -> None:
    """The story, start to end."""
    cloud, machines = story.cloud, story.cloud.lab.machines

    story.chapter(
        "Open",
        """No firewall yet: every droplet is open, as in the original product. Anti-spoofing holds already: a droplet
        sends from its own MAC and addresses or not at all.""",
    )
    story.truth()

    story.chapter(
        "A firewall on a tag",
        """One request protects web-1, web-2 and web-3, on both hypervisors, because they carry the tag "web". Web
        servers may be reached on tcp 80 and by ping, and may themselves only ask for names (udp 53) and ping.""",
    )
    rules = {
        "inbound_rules": [inbound("tcp", "80"), inbound("icmp", "0")],
        "outbound_rules": [outbound("udp", "53"), outbound("icmp", "0")],
    }
    firewall = story.request("POST", "/v2/firewalls", {"name": "web-fw", "tags": ["web"], **rules})["firewall"]
    story.truth()

    story.chapter("A rule added", """Droplets tagged "admin" may log in to web servers.""")
    login = {"inbound_rules": [inbound("tcp", "22", tags=["admin"])]}
    story.request("POST", f"/v2/firewalls/{firewall['id']}/rules", login)
    story.truth()

    story.chapter(
        "A rule removed while a connection is open",
        """admin is logged in to web-1, and a visitor outside holds a connection to its port 80. The login rule goes:
        the login must stop at once, in both directions, and the visitor must not notice.""",
    )
    for name in ("web-1", "web-2", "web-3"):
        machines[name].call("listen", tcp=[22, 80], udp=[])
    web = machines["web-1"]
    machines["admin"].call("tcp_open", session="login", address=web.address(), port=22)
    machines["outside"].call("tcp_open", session="visit", address=web.address(), port=80)
    connections = {"login": ("admin", 22), "visit": ("outside", 80)}

    def look() -> None:
        """Both connections, asked with a line that web-1 has to send back."""
        for session, (who, port) in connections.items():
            alive = machines[who].call("tcp_say", session=session, timeout=0.3) == "alive"
            opening = cloud.packet(Case(who, "web-1", "tcp", port))
            story.check(f"the open connection of {who} to web-1, tcp {port}", opening, opening, alive)

    look()
    print()
    story.request("DELETE", f"/v2/firewalls/{firewall['id']}/rules", login)
    cloud.settle()
    look()
    print()
    story.truth()

    story.chapter(
        "An attempt to spoof",
        """The login rule comes back. db-1, which may not log in, gives itself admin's address and tries: first with
        its own MAC, then with admin's MAC too.""",
    )
    story.request("POST", f"/v2/firewalls/{firewall['id']}/rules", login)
    spoof(story)
    print()
    story.truth()


def spoof(story: Story) -> None:
    cloud, lab = story.cloud, story.cloud.lab
    thief, victim, target = lab.machines["db-1"], lab.machines["admin"], lab.machines["web-3"]
    stolen, own_mac = victim.address(), thief.mac
    target.call("listen", tcp=[22], udp=[])
    thief.add_address(f"{stolen}/16")
    thief.ip(f"route add {target.address()}/32 dev eth0 src {stolen}")
    try:
        for mac, words in ((own_mac, "admin's address"), (victim.mac, "admin's address and MAC")):
            thief.set_mac(mac)
            # The neighbour is given, so that what is tried is the packet itself and not the ARP question before it.
            thief.ip(f"neigh replace {target.address()} lladdr {target.mac} dev eth0")
            passed = thief.call("tcp", address=target.address(), port=22, timeout=0.5) == "open"
            lie = replace(cloud.packet(Case("admin", "web-3", "tcp", 22)), sender="db-1", source_mac=mac)
            story.check(f"db-1 with {words} to web-3, tcp 22", lie, None, passed)
    finally:
        thief.set_mac(own_mac)
        thief.ip(f"route del {target.address()}/32 dev eth0")
        thief.del_address(f"{stolen}/16")
        thief.forget_neighbours()
    passed = victim.call("tcp", address=target.address(), port=22, timeout=1) == "open"
    story.check("admin itself to web-3, tcp 22", cloud.packet(Case("admin", "web-3", "tcp", 22)), None, passed)


def by_hand(cloud: Cloud) -> str:
    """What to type to go on."""
    rest, hv1 = cloud.controller.rest, next(iter(cloud.lab.hypervisors.values()))
    web = cloud.lab.machines["web-1"]
    token = shlex.quote(f"Authorization: Bearer {rest.token}")
    environment = " ".join(f"OVS_{kind}DIR={hv1.ovs.directory}" for kind in ("RUN", "DB"))
    body = json.dumps({"inbound_rules": [{"protocol": "tcp", "ports": "8080", "sources": EVERYWHERE}]})
    return "\n".join(
        [
            f"  export FW={rest.url} AUTH={token}",
            '  curl -sH "$AUTH" $FW/v2/firewalls | python3 -m json.tool',
            '  curl -sH "$AUTH" $FW/v1/hypervisors | python3 -m json.tool',
            '  ID=$(curl -sH "$AUTH" $FW/v2/firewalls | python3 -c \'import json,sys; '
            'print(json.load(sys.stdin)["firewalls"][0]["id"])\')',
            f'  curl -isH "$AUTH" -H "Prefer: wait=5" --json {shlex.quote(body)} $FW/v2/firewalls/$ID/rules',
            f"  ip netns exec {cloud.lab.machines['outside'].netns} ping -c3 {web.address()}",
            f"  {environment} ovs-ofctl -O OpenFlow14 dump-flows {hv1.bridge}",
            f"  ovs-appctl -t {hv1.ovs.directory}/vswitchd.ctl dpctl/dump-conntrack",
            f"  tail -f {cloud.controller.log}",
        ]
    )


def port_or_free(host: str, port: int) -> int:
    """The port people expect, or any other when somebody has it."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return free_port(host)
    return port


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, until Ctrl-C")
    parser.add_argument("--tag", default="demo", help="names the namespaces; two demos need two tags")
    options = parser.parse_args()
    started = time.monotonic()
    took: Callable[[], str] = lambda: f"{time.monotonic() - started:.1f} s"  # noqa: E731
    try:
        with Lab(options.tag) as lab:
            print("Building two hypervisors, five droplets and a host outside ...", flush=True)
            for _ in range(2):
                lab.add_hypervisor()
            for name, (hypervisor, _, _) in DROPLETS.items():
                lab.add_machine(name, hypervisor)
            lab.add_outside()
            print(f"  {took()}. Starting the controller (ryu-manager) and connecting the hypervisors ...", flush=True)
            controller = lab.keep(
                Controller(
                    lab.directory / "controller", host=lab.address, openflow_port=6653,
                    rest_port=port_or_free(lab.address, 8080), token=secrets.token_urlsafe(16),
                )
            )  # fmt: skip
            controller.start()
            cloud = Cloud(lab, controller)
            lab.connect(controller.openflow_port)
            cloud.register_hypervisors()
            for name, (_, droplet_id, tags) in DROPLETS.items():
                cloud.register(name, droplet_id, tags)
            cloud.wait_in_sync()
            print(f"  {took()}. {picture(lab)}", flush=True)
            story = Story(cloud, sys.stdout.isatty())
            tell(story)
            print(f"\n{story.probed} probes in {took()}, {story.wrong} not as expected.")
            if options.keep:
                print("\nGo on by hand (Ctrl-C here ends it and removes everything):\n")
                print(by_hand(cloud), flush=True)
                signal.pause()
            else:
                print("\nTo go on by hand: `make demo KEEP=1` stays up and says what to type; `make run` starts the")
                print("controller alone, and says how to point a hypervisor at it.")
            return 1 if story.wrong else 0
    except KeyboardInterrupt:
        print("\nInterrupted; everything that was made is removed.", flush=True)
        return 130
    except LabError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 2


def picture(lab: Lab) -> str:
    by_host: dict[str, list[str]] = {}
    for name, tap in lab.taps.items():
        by_host.setdefault(tap.hypervisor.name, []).append(f"{name} {lab.machines[name].address()}")
    lines = [f"    {host:<8} {', '.join(names)}" for host, names in by_host.items()]
    lines.append(f"    {'fabric':<8} outside {lab.machines['outside'].address()}")
    return "Ready:\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
