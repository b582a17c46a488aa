"""While the policy changes under traffic: what no policy allows never passes, what every one allows is never lost.

Behaviours T140 to T150; what of them is about messages alone is test_openflow_updates_ovs.py.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from rawframes import (
    ACK,
    ICMP,
    ICMP6,
    RST,
    SYN,
    Tcp,
    Udp,
    datagram,
    end,
    ends,
    fragments,
    framed,
    icmp_error,
    packet,
    segment,
)

from firewall_app.pipeline.tables import Kind, cookie_parts
from lab.cloud import Cloud, inbound, outbound, seconds_until
from lab.controller import Controller
from lab.network import Lab
from lab.system import end as stop_process
from lab.system import spawn, wait_until

pytestmark = pytest.mark.lab
MACHINES = {"web": ("hv1", 101, ("web",)), "app": ("hv1", 102, ("app",)), "db": ("hv2", 103, ())}
UNREACHABLE = {4: (3, 1), 6: (1, 3)}
ERROR, BUNDLE_CONTROL, BUNDLE_COMMIT = 1, 33, b"\0\4"  # of OpenFlow 1.4
GHOST = 190
FOREIGN = 0x7E57  # a cookie that is nobody's
HOLDS_GENERATION = re.compile(
    r"table=(20|35),? .*ct_mark|pkt_mark|table=40,? .*reg0=0x1/0x1", re.IGNORECASE
)  # or the fence
BIG_FIREWALL = 350  # rules


@pytest.fixture(scope="module")
def cloud():
    with Lab("u" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name, (host, _, _) in MACHINES.items():
            lab.add_machine(name, host)
        lab.add_outside()
        settings = {"max_rules": BIG_FIREWALL}
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address, settings=settings))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name in MACHINES:
            register(built, name)
        built.wait_in_sync()
        yield built


@pytest.fixture
def clean(cloud):
    """The cloud without firewalls, and droplets with the tags that they began with; so it is left too."""
    yield cloud
    for firewall in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
        cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    cloud.call("DELETE", f"/v1/droplets/{GHOST}?ports=delete") if ghost_exists(cloud) else None
    for name in MACHINES:
        tagged(cloud, name)
    for host in cloud.lab.hypervisors.values():
        host.ovs.appctl("dpctl/flush-conntrack")
    cloud.settle()


def register(cloud, name):
    """Makes a machine a droplet whose port has the addresses of its `end` too."""
    machine, tap, (_, droplet_id, _) = cloud.lab.machines[name], cloud.lab.taps[name], MACHINES[name]
    tagged(cloud, name)
    body = {"droplet_id": droplet_id, "hypervisor": tap.hypervisor.dpid, "interface": tap.name, "mac": machine.mac,
            "addresses": [*machine.hosts, *ends(machine)]}  # fmt: skip
    cloud.call("PUT", f"/v1/ports/{name}", body)
    cloud.droplets[name] = droplet_id


def tagged(cloud, name, *tags):
    """Gives a droplet these tags; without, those that it began with."""
    _, droplet_id, own = MACHINES[name]
    cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": [t for t in tags or own if t]})


def ghost_exists(cloud):
    return any(droplet["id"] == GHOST for droplet in cloud.call("GET", "/v1/droplets?per_page=200")["droplets"])


def make_ghost(cloud, tags=()):
    """A droplet whose interface never appears, on the hypervisor of `web`."""
    cloud.call("PUT", f"/v1/droplets/{GHOST}", {"name": "ghost", "tags": list(tags)})
    port = {"droplet_id": GHOST, "hypervisor": cloud.lab.hypervisors["hv1"].dpid, "interface": "ghost0",
            "mac": "02:00:00:00:0a:01", "addresses": ["10.1.77.1", "fd00:1::77:1"]}  # fmt: skip
    cloud.call("PUT", "/v1/ports/ghost", port)


class Wall:
    """One firewall, changed in place; a change is confirmed by the switches when it returns."""

    def __init__(self, cloud, name="fw", *, inbound_rules=(), outbound_rules=(), **attached):
        self.cloud, self.name, self.attached = cloud, name, attached or {"tags": ["web"]}
        body = self._body(inbound_rules, outbound_rules)
        self.id = cloud.call("POST", "/v2/firewalls", body, expect=202)["firewall"]["id"]

    def _body(self, inbound_rules, outbound_rules):
        return {"name": self.name, "inbound_rules": list(inbound_rules), "outbound_rules": list(outbound_rules),
                **self.attached}  # fmt: skip

    @property
    def path(self):
        return f"/v2/firewalls/{self.id}"

    def put(self, inbound_rules=(), outbound_rules=()):
        return self.cloud.call("PUT", self.path, self._body(inbound_rules, outbound_rules))["firewall"]

    def has(self, *rules):
        self.cloud.call("POST", f"{self.path}/rules", self._sides(rules), expect=204)

    def lacks(self, *rules):
        self.cloud.call("DELETE", f"{self.path}/rules", self._sides(rules), expect=204)

    @staticmethod
    def _sides(rules):
        sides = {"inbound_rules": [r for r in rules if "sources" in r],
                 "outbound_rules": [r for r in rules if "destinations" in r]}  # fmt: skip
        return {side: found for side, found in sides.items() if found}

    def read(self):
        return self.cloud.call("GET", self.path)["firewall"]

    def delete(self):
        self.cloud.call("DELETE", self.path)


# ---- traffic


@contextmanager
def stream(cloud, sender, receiver, port, version=4, lossless=True):
    """500 datagrams a second; yields how many have arrived.  None may be lost, or all must be."""
    source, target = cloud.lab.machines[sender], cloud.lab.machines[receiver]
    name = f"{sender}-{port}"
    target.call("udp_count", port=port, version=version)
    going = source.submit("udp_stream", stream=name, address=target.address(version), port=port, rate=500, seconds=200)

    def count():
        return target.call("udp_counted", port=port)["packets"]

    try:
        if lossless:
            assert seconds_until(count, 10) is not None, "not even the first arrives"
        yield count
    finally:
        source.call("udp_stop", stream=name)
        sent = going.result(30)["sent"]
        complete = seconds_until(lambda: count() >= sent, 5) is not None if lossless else True
        arrived = target.call("udp_counted", port=port, end=True)["packets"]
    assert complete, f"{name}: {arrived} of {sent} arrived"
    assert arrived == (sent if lossless else 0), f"{name}: {arrived} of {sent} arrived"
    assert sent > 100


def more(*counts, than=25):
    """Waits until each stream has brought so many more."""
    goals = [(count, count() + than) for count in counts]
    for count, goal in goals:
        assert seconds_until(lambda count=count, goal=goal: count() >= goal, 10) is not None, "the stream stopped"


@dataclass
class Barrage:
    """Frames sent over and over by one machine to another, which counts those that arrive, each kind by its token."""

    sender: object
    receiver: object
    kinds: dict[str, list[str]]  # token -> frames that hold it
    sent: int = 0
    _name: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _failed: list[BaseException] = field(default_factory=list)

    def __enter__(self):
        self._name = f"barrage-{self.sender.name}"
        self.receiver.call("capture", capture=self._name, contains=b"barrage".hex(), src=self.sender.mac)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        frames = [frame for kind in self.kinds.values() for frame in kind]
        try:
            while not self._stop.is_set():
                self.sent += self.sender.call("send_frames", frames=frames)
        except BaseException as problem:
            self._failed.append(problem)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def seen(self, end=False):
        """How many frames of each kind came out."""
        assert not self._failed
        frames = self.receiver.call("captured", capture=self._name, end=end)
        return Counter(token for frame in frames for token in self.kinds if token.encode().hex() in frame)

    def silent(self):
        """The kinds of which none came out, once what is on its way has had its time."""
        seconds_until(lambda: self.seen().keys() == self.kinds.keys(), 10)
        return self.kinds.keys() - self.seen(end=True).keys()


def kinds_of(sender, receiver, port):
    """Packets of every kind from one machine to another, each with its token: none belongs to a connection."""
    found = {}

    def add(kind, version, build):
        token = f"barrage {kind} {version}."
        found[token] = build(token.encode())

    for version in (4, 6):
        here, there = end(sender, version), end(receiver, version)
        icmp = ICMP if version == 4 else ICMP6
        for kind, flags in (("syn", SYN), ("syn+ack", SYN | ACK), ("ack", ACK), ("rst", RST)):
            make = partial(segment, here, there, (4100, port), flags, 1000, 2000)
            add(kind, version, lambda data, h=here, t=there, make=make: [framed(h, t, make(data))])
        add("udp", version, lambda data, h=here, t=there: [framed(h, t, datagram(h, t, (4101, port), data))])
        add("udp in fragments", version, lambda data, h=here, t=there: fragments(
            h, t, 17, datagram(h, t, (4102, port), data * 120)[20 if h.version == 4 else 40 :]))  # fmt: skip
        for kind, reply in (("echo", False), ("echo reply", True)):
            add(kind, version, lambda data, h=here, t=there, i=icmp, reply=reply: [
                framed(h, t, packet(h, t, i, echo_of(h, t, data, reply)))])  # fmt: skip
        add("icmp error", version, lambda data, h=here, t=there: [
            framed(h, t, icmp_error(h, t, UNREACHABLE[h.version], datagram(t, h, (port, 4103), data)))])  # fmt: skip
        add("sctp", version, lambda data, h=here, t=there: [framed(h, t, packet(h, t, 132, bytes(12) + data))])
    return found


def echo_of(here, there, data, reply):
    """An echo with a token in it, checksum included."""
    from frames import checksum, icmp6

    body = b"\0\7\0\1" + data
    if here.version == 6:
        return icmp6(here.address, there.address, 129 if reply else 128, body)
    head = bytes([0 if reply else 8, 0, 0, 0]) + body
    return head[:2] + checksum(head).to_bytes(2, "big") + head[4:]


# ---- T140


def test_T140_what_no_policy_allows_never_passes_while_everything_else_goes_on_and_off(clean):
    machines = clean.lab.machines
    outside, web, app, db = (machines[name] for name in ("outside", "web", "app", "db"))
    base = Wall(clean, "base", inbound_rules=[inbound("udp", "7100")], tags=["web"])
    Wall(clean, "stay", inbound_rules=[inbound("udp", "7101")], droplet_ids=[101])
    pairs = ((outside, web), (app, web), (db, web), (web, outside))
    ways = [Barrage(sender, receiver, kinds_of(sender, receiver, 81)) for sender, receiver in pairs]
    clean.settle()
    at_times, friendly = inbound("udp", "7110"), inbound("tcp", "80", tags=["friends"])
    flips = [
        (lambda: base.has(inbound("tcp", "443"), outbound("tcp", "443")),
         lambda: base.lacks(inbound("tcp", "443"), outbound("tcp", "443"))),
        (lambda: base.has(friendly), lambda: base.lacks(friendly)),
        (lambda: tagged(clean, "app", "app", "friends"), lambda: tagged(clean, "app", "app")),
        (lambda: tagged(clean, "web", "other"), lambda: tagged(clean, "web", "web")),
        (lambda: make_ghost(clean, ["web"]), lambda: clean.call("DELETE", f"/v1/droplets/{GHOST}?ports=delete")),
        (lambda: base.put([inbound("udp", "7100"), inbound("udp", "53")], [outbound("udp", "53")]),
         lambda: base.put([inbound("udp", "7100")])),
    ]  # fmt: skip
    clean.call("POST", "/v2/tags", {"name": "friends"})
    with ExitStack() as traffic:
        witness = traffic.enter_context(stream(clean, "outside", "web", 7101))
        traffic.enter_context(stream(clean, "outside", "web", 7111, lossless=False))
        traffic.enter_context(stream(clean, "app", "web", 7112, 6, lossless=False))
        traffic.enter_context(stream(clean, "web", "outside", 7113, lossless=False))
        web.call("udp_count", port=7110)
        sometimes = outside.submit(
            "udp_stream", stream="sometimes", address=web.address(), port=7110, rate=500, seconds=200
        )
        for way in ways:
            traffic.enter_context(way)
        for number in range(5):
            for on, off in flips:
                on()
                off()
            on_another = Wall(clean, f"another{number}", inbound_rules=[inbound("tcp", "8080")], tags=["web"])
            base.has(at_times)
            more(partial(lambda: web.call("udp_counted", port=7110)["packets"]))
            base.lacks(at_times)
            clean.settle()
            before = web.call("udp_counted", port=7110)["packets"]
            more(witness)
            assert web.call("udp_counted", port=7110)["packets"] == before
            on_another.delete()
        outside.call("udp_stop", stream="sometimes")
        assert sometimes.result(30)["sent"] > 500
    web.call("udp_counted", port=7110, end=True)
    for way in ways:
        assert way.sent > 1000
        assert not way.seen(end=True)
    # had any policy allowed it, it would have been seen
    for firewall in clean.call("GET", "/v2/firewalls")["firewalls"]:
        clean.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    clean.settle()
    for way in ways:
        with Barrage(way.sender, way.receiver, way.kinds) as again:
            wait_until("a volley", lambda again=again: again.sent > len(again.kinds))
        assert not again.silent()


# ---- T141, T142


@contextmanager
def newcomers(cloud, sender, receiver, port, version=4):
    """Datagrams each of which opens a connection, so that the rules are asked for every one; none may be lost."""
    source, target = cloud.lab.machines[sender], cloud.lab.machines[receiver]
    here, there = end(source, version), end(target, version)
    stop, sent = threading.Event(), []

    def run():
        number = 0
        while not stop.is_set():
            made = [framed(here, there, datagram(here, there, (1024 + (number + i) % 60000, port), b"newcomer"))
                    for i in range(10)]  # fmt: skip
            source.call("send_frames", frames=made)
            sent.extend(made)
            number += 10
            time.sleep(0.02)

    target.call("capture", capture="new", contains=b"newcomer".hex(), src=source.mac)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        found = target.call("captured", capture="new", seconds=5, count=len(sent))
    assert len(sent) > 100
    lost = Counter(sent) - Counter(found)
    assert not lost, f"{lost.total()} of {len(sent)} lost"


def test_T141_a_hundred_changes_that_concern_it_not_cost_an_allowed_stream_nothing(clean):
    web, outside, app = (clean.lab.machines[name] for name in ("web", "outside", "app"))
    Wall(clean, inbound_rules=[inbound("udp", "7200-7205"), inbound("tcp", "80"), inbound("icmp", "0")])
    other = Wall(clean, "other", inbound_rules=[inbound("tcp", "1")], outbound_rules=[outbound("udp", "53")])
    web.call("listen", tcp=[80], udp=[])
    clean.call("POST", "/v2/tags", {"name": "friends"})
    clean.settle()
    rule = inbound("tcp", "1000-2000", tags=["friends"])

    def a_wall_comes_and_goes():
        Wall(clean, "third", inbound_rules=[inbound("tcp", "5")], outbound_rules=[outbound("icmp", "0")]).delete()

    def a_droplet_comes_and_goes():
        make_ghost(clean, ["friends"])
        clean.call("DELETE", f"/v1/droplets/{GHOST}?ports=delete")

    changes = [
        partial(other.has, rule), partial(tagged, clean, "db", "friends"), partial(tagged, clean, "db"),
        partial(other.lacks, rule), a_wall_comes_and_goes, a_droplet_comes_and_goes,
        partial(other.put, [inbound("tcp", "3")], [outbound("tcp", "3")]),
        partial(other.put, [inbound("tcp", "4")]),
    ]  # fmt: skip
    for machine, port in ((outside, 41000), (app, 41001)):
        opened = machine.call("tcp_open", session="t141", address=web.address(), port=80, source_port=port, timeout=5)
        assert opened == "open"
        machine.call("capture", capture="out", src=machine.mac, contains=f"{port:04x}0050", outgoing=True)
        web.call("capture", capture=machine.name, src=machine.mac, contains=f"{port:04x}0050")
    with ExitStack() as traffic:
        for sender, port, version in (("outside", 7200, 4), ("outside", 7201, 6), ("app", 7202, 4)):
            traffic.enter_context(stream(clean, sender, "web", port, version))
        traffic.enter_context(newcomers(clean, "outside", "web", 7203))
        for number in range(100):
            said = [m.submit("tcp_say", session="t141", kilobytes=4, timeout=10) for m in (outside, app)]
            changes[number % len(changes)]()
            assert [answer.result(60) for answer in said] == ["alive", "alive"]
    for machine in (outside, app):
        sent = machine.call("captured", capture="out")
        assert len(sent) > 400
        # so that no segment was lost and sent again
        assert not Counter(sent) - Counter(web.call("captured", capture=machine.name, seconds=5, count=len(sent)))
        machine.call("tcp_close", session="t141")


def test_T142_all_of_twenty_thousand_flows_are_replaced_and_an_allowed_stream_loses_nothing(clean):
    host = clean.lab.hypervisors["hv1"]

    def rules(number):
        """Rules of 60 flows each that no other has, and one that allows the streams, in other words each time."""
        wide = [inbound("tcp", "1-65534", addresses=[f"10.{number}.{i >> 8}.{i & 255}", f"fd00:{number}::{i:x}"])
                for i in range(BIG_FIREWALL - 1)]  # fmt: skip
        # never by the same flow twice: what would be overwritten is there all the time, bundle or not
        allowing = [{}, {"addresses": ["10.1.0.0/16"]}, {"addresses": ["10.0.0.0/8"]}][number % 3]
        return [*wide, inbound("udp", "7300-7303", **allowing)]

    def held():
        return {line for line in host.flows() if "table=33" in line and "reg3" in line}

    wall = Wall(clean, inbound_rules=rules(100))
    before = held()
    assert len(before) > 20_000
    clean.settle()
    with stream(clean, "outside", "web", 7300), stream(clean, "app", "web", 7301), \
            newcomers(clean, "outside", "web", 7302):  # fmt: skip
        wall.put(rules(101))
        after = held()
        wall.put(rules(102))
        clean.settle()
    assert len(after) > 20_000
    assert not before & after
    assert not after & held()


# ---- T143, T144


@contextmanager
def refusing(host, when):
    """The switch refuses what a change needs: the flows that mark connections, or one more flow in the rules' table."""
    if when == "add":
        host.ovs.appctl("dpif/set-dp-features", host.bridge, "ct_label", "false")
    else:
        held = sum("table=33" in line for line in host.flows())
        host.ovs.vsctl("--id=@t", "create", "Flow_Table", f"flow_limit={held}", "overflow_policy=refuse",
                       "--", "set", "Bridge", host.bridge, "flow_tables:33=@t")  # fmt: skip
    try:
        yield
    finally:
        if when == "add":
            host.ovs.appctl("dpif/set-dp-features", host.bridge, "ct_label", "true")
        else:
            host.ovs.vsctl("clear", "Bridge", host.bridge, "flow_tables")


@pytest.mark.parametrize(
    ("when", "words", "mend"),
    [("add", ("CT_DATAPATH_SUPPORT", "table=35"), "by itself"), ("commit", ("TABLE_FULL", "table=33"), "resync")],
)
def test_T143_T144_a_change_of_which_one_flow_is_refused_is_not_made_at_all_and_made_later(clean, when, words, mend):
    host, app = clean.lab.hypervisors["hv1"], clean.lab.machines["app"]
    stays = inbound("udp", "7500")
    wall = Wall(clean, inbound_rules=[stays, inbound("udp", "80")])
    clean.settle()
    kept, new = (Udp(end(app), end(clean.lab.machines["web"]), port, port) for port in (80, 81))
    assert kept.heard(kept.client) == "both"
    before = sorted(host.flows())

    def sync():
        return clean.call("GET", f"/v1/hypervisors/{host.dpid}")["sync"]

    with stream(clean, "outside", "web", 7500) as count:
        with refusing(host, when):
            answer = wall.put([stays, *(inbound("udp", str(port)) for port in range(81, 91))])
            for seen in (answer, wall.read()):
                assert seen["status"] == "failed"
                assert seen["pending_changes"] == [{"droplet_id": 101, "removing": False, "status": "failed"}]
            assert clean.call("GET", "/v1/ports/web")["status"] == "failed"
            assert sync()["state"] == "failed"
            assert all(word in sync()["error"] for word in words), sync()
            clean.settle()
            more(count)
            assert kept.heard() == "both"
            kept.ports = (79, 80)
            assert kept.heard(kept.client) == "both"  # also what is new is judged by the old rules
            assert new.heard(new.client) == "none"
            assert sorted(host.flows()) == before
        if mend == "resync":
            clean.call("POST", f"/v1/hypervisors/{host.dpid}/resync", expect=202)
        wait_until("the change is made", lambda: wall.read()["status"] == "succeeded", 30, 0.1)
        clean.settle()
        assert kept.heard() == "none"
        assert new.heard(new.client) == "both"
    assert (sync()["state"], sync()["error"]) == ("in_sync", None)
    assert wall.read()["pending_changes"] == []


# ---- T145


class Proxy:
    """Stands between a switch and its controller, and can hold back what would commit a bundle."""

    def __init__(self, address, controller_port):
        self.hold = False
        self.held, self.release, self.complained = threading.Event(), threading.Event(), threading.Event()
        self._target = address, controller_port
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        self._sockets, self._threads = [self._listener], []
        self._start(self._accept)

    def _start(self, work, *arguments):
        thread = threading.Thread(target=self._quietly, args=(work, *arguments))
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _quietly(work, *arguments):
        with suppress(OSError):  # a socket that was closed is how this ends
            work(*arguments)

    def _accept(self):
        while True:
            switch, _ = self._listener.accept()
            controller = socket.create_connection(self._target)
            self._sockets += [switch, controller]
            self._start(self._relay, controller, switch, self._to_switch)
            self._start(self._relay, switch, controller, self._to_controller)

    def _relay(self, source, target, look):
        waiting = b""
        try:
            while data := source.recv(65536):
                waiting += data
                while len(waiting) >= 8 and len(waiting) >= (size := int.from_bytes(waiting[2:4], "big")):
                    look(waiting[:size])
                    target.sendall(waiting[:size])
                    waiting = waiting[size:]
        finally:
            for connection in (source, target):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _to_switch(self, message):
        if self.hold and message[1] == BUNDLE_CONTROL and message[12:14] == BUNDLE_COMMIT:
            self.hold = False
            self.held.set()
            self.release.wait(60)

    def _to_controller(self, message):
        if message[1] == ERROR:
            self.complained.set()

    def close(self):
        self.release.set()
        for opened in self._sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for thread in self._threads:
            thread.join(10)


def test_T145_a_bundle_that_idled_away_changes_nothing_and_is_made_again_whole(clean):
    host, app, web = clean.lab.hypervisors["hv1"], clean.lab.machines["app"], clean.lab.machines["web"]
    stays = inbound("udp", "7550")
    wall = Wall(clean, inbound_rules=[stays, inbound("udp", "80")])
    clean.settle()
    proxy = Proxy(clean.lab.address, clean.controller.openflow_port)
    try:
        host.ovs.vsctl("set", "Open_vSwitch", ".", "other_config:bundle-idle-timeout=1")
        host.connect(f"tcp:{clean.lab.address}:{proxy.port}")
        wait_until("the switch has come by the proxy", lambda: host.connected, 20, 0.05)
        clean.wait_in_sync()
        kept, new = (Udp(end(app), end(web), port, port) for port in (80, 81))
        assert kept.heard(kept.client) == "both"
        before = sorted(host.flows())
        with stream(clean, "outside", "web", 7550) as count:
            proxy.hold = True
            body = {"name": "fw", "tags": ["web"], "outbound_rules": [],
                    "inbound_rules": [stays, *(inbound("udp", str(port)) for port in range(81, 91))]}  # fmt: skip
            assert clean.ask("PUT", wall.path, body).status == 200
            assert proxy.held.wait(20)
            assert proxy.complained.wait(20)  # the switch has forgotten the bundle
            more(count)
            assert wall.read()["status"] == "waiting"
            assert kept.heard() == "both"
            assert new.heard(new.client) == "none"
            proxy.release.set()
            wait_until("it is told", lambda: wall.read()["status"] == "failed", 10)
            assert "BUNDLE_FAILED" in clean.call("GET", f"/v1/hypervisors/{host.dpid}")["sync"]["error"]
            assert sorted(host.flows()) == before
            wait_until("the change is made", lambda: wall.read()["status"] == "succeeded", 30, 0.1)
            clean.settle()
            assert kept.heard() == "none"
            assert new.heard(new.client) == "both"
    finally:
        host.ovs.vsctl("remove", "Open_vSwitch", ".", "other_config", "bundle-idle-timeout")
        host.connect(f"tcp:{clean.lab.address}:{clean.controller.openflow_port}")
        proxy.close()
        wait_until("the switch has come back", lambda: host.connected, 20, 0.05)
        clean.wait_in_sync()


# ---- T147


@pytest.mark.parametrize(("who", "version"), [("app", 4), ("db", 6)])
def test_T147_a_droplet_whose_tags_change_is_in_and_out_of_what_rules_name_at_once(clean, who, version):
    web, outside, machine = (clean.lab.machines[name] for name in ("web", "outside", who))
    for tag in ("friends", "walled"):
        clean.call("POST", "/v2/tags", {"name": tag})
    Wall(clean, inbound_rules=[inbound("tcp", "80", tags=["friends"])], outbound_rules=[
        outbound("tcp", "81", tags=["friends"])])  # fmt: skip
    Wall(clean, "walled", inbound_rules=[inbound("tcp", "81"), inbound("udp", "53")],
         outbound_rules=[outbound("tcp", "80")], tags=["walled"])  # fmt: skip
    closed = Udp(end(outside, version), end(machine, version), 4002, 54)
    member = {"resources": [{"resource_id": str(MACHINES[who][1]), "resource_type": "droplet"}]}
    into = [partial(tagged, clean, who, "friends"),
            partial(clean.call, "POST", "/v2/tags/friends/resources", member, expect=204)]  # fmt: skip
    out = [partial(tagged, clean, who, ""),
           partial(clean.call, "DELETE", "/v2/tags/friends/resources", member, expect=204)]  # fmt: skip

    def are(talk, heard):
        clean.settle()
        assert talk.heard(talk.client) == heard

    for number, (join, leave) in enumerate(zip(into, out, strict=True)):
        tagged(clean, who, "")
        to_web = Tcp(end(machine, version), end(web, version), 4010 + number, 80)
        from_web = Tcp(end(web, version), end(machine, version), 4020 + number, 81)
        clean.settle()
        assert not to_web.send(to_web.client, SYN, ack=False)
        join()
        clean.settle()
        assert to_web.open()
        assert from_web.open()
        leave()
        are(to_web, "none")
        are(from_web, "none")
        join()
        are(to_web, "both")  # the connections, not only what is new
        are(from_web, "both")
    are(closed, "both")
    tagged(clean, who, "friends", "walled")
    are(closed, "none")
    are(to_web, "both")
    are(from_web, "both")
    tagged(clean, who, "walled")
    are(to_web, "none")
    are(from_web, "none")
    are(closed, "none")
    tagged(clean, who, "")
    are(closed, "both")


# ---- T148, T149, T150


def counted(host):
    """How many packets each flow has seen, by its text; without the flows that hold the generation."""
    lines = [line for line in host.ovs.ofctl("dump-flows", host.bridge).splitlines() if "actions=" in line]
    found = {}
    for line in lines:
        if not HOLDS_GENERATION.search(line):
            text = re.sub(r"(duration|n_packets|n_bytes|idle_age|hard_age)=\S+ ?", "", line).strip()
            found[text] = int(re.search(r"n_packets=(\d+)", line)[1])
    return found


def test_T148_counters_of_rules_that_nothing_changed_go_on_through_changes_and_restarts(clean):
    host, web, outside = (clean.lab.hypervisors["hv1"], *(clean.lab.machines[name] for name in ("web", "outside")))
    Wall(clean, inbound_rules=[inbound("udp", "7600"), inbound("tcp", "80", tags=["app"])])
    other = Wall(clean, "other", inbound_rules=[inbound("tcp", "1")])
    clean.settle()
    ports = iter(range(4000, 5000))

    def admitted():
        """What the flow of the rule for udp 7600 over IPv4 has counted."""
        (found,) = [count for text, count in counted(host).items() if "udp," in text and "tp_dst=7600" in text]
        return found

    def come(many):
        for _ in range(many):
            assert Udp(end(outside), end(web), next(ports), 7600).open()
        host.settle()

    come(7)
    assert admitted() == 7
    before = counted(host)
    for number in range(5):
        rule = inbound("tcp", str(10 + number), tags=["app"])
        other.has(rule)
        other.lacks(rule)  # judges every connection anew, of which nobody says anything now
        tagged(clean, "app", "app", f"more{number}")
    tagged(clean, "app")
    for end_it in (clean.controller.stop, clean.controller.kill):
        end_it()
        clean.controller.start()
        clean.wait_in_sync()
    after = counted(host)
    assert before.keys() == after.keys()
    assert {text: (count, after[text]) for text, count in before.items() if after[text] < count} == {}
    assert admitted() == 7
    come(5)
    assert admitted() == 12
    flows = clean.call("GET", f"/v1/hypervisors/{host.dpid}/flows?per_page=200")["flows"]
    assert [flow["packets"] for flow in flows if "udp," in flow["flow"] and "tp_dst=7600" in flow["flow"]] == [12]


@contextmanager
def watched(*hosts):
    """Yields, for each switch, what became of its flows, in the words of ovs-ofctl(8); complete after the block."""
    logs = {host.name: host.ovs.directory / "watch.out" for host in hosts}
    watchers = []
    seen = {host.name: [] for host in hosts}

    def reached(host, number):
        """Whether the watch has come to a flow made now, which is so once all that was before it has been told."""
        host.add_flows(f"cookie={FOREIGN:#x},table=250,priority={number},in_port={number},actions=drop")
        return f"in_port={number}" in logs[host.name].read_text()

    try:
        for host in hosts:
            logs[host.name].unlink(missing_ok=True)
            where = host.ovs.directory
            command = ["ovs-ofctl", "-O", "OpenFlow14", f"--unixctl={where}/watch.ctl", "monitor"]
            watchers.append(spawn([*command, f"unix:{where}/{host.bridge}.mgmt", "watch:!initial"], logs[host.name]))
        for host in hosts:
            wait_until("the watch has begun", partial(reached, host, 7001), 10, 0.05)
        yield seen
        for host in hosts:
            wait_until("the watch has seen all", partial(reached, host, 7002), 10, 0.05)
            lines = [line.strip() for line in logs[host.name].read_text().splitlines() if "event=" in line]
            seen[host.name] += [line for line in lines if f"cookie={FOREIGN:#x}" not in line]
    finally:
        for watcher in watchers:
            stop_process(watcher)
        for host in hosts:
            host.ovs.ofctl("del-flows", host.bridge, f"cookie={FOREIGN:#x}/-1")


def test_T149_what_was_read_written_back_and_a_restart_touch_no_flow(clean):
    Wall(clean, inbound_rules=[inbound("udp", "7700-7800", tags=["app"]), inbound("tcp", "80", droplet_ids=[103])],
         outbound_rules=[outbound("icmp", "0")], tags=["web", "app"])  # fmt: skip
    clean.call("PUT", "/v1/ports/db/rules", {"inbound_rules": [inbound("tcp", "80")], "outbound_rules": []})

    def write_back():
        for firewall in clean.call("GET", "/v2/firewalls")["firewalls"]:
            body = {key: firewall[key] for key in ("name", "inbound_rules", "outbound_rules", "droplet_ids", "tags")}
            clean.call("PUT", f"/v2/firewalls/{firewall['id']}", body)
            body["inbound_rules"].reverse()
            clean.call("PUT", f"/v2/firewalls/{firewall['id']}", body)
        rules = clean.call("GET", "/v1/ports/db/rules")
        clean.call("PUT", "/v1/ports/db/rules", {key: rules[key] for key in ("inbound_rules", "outbound_rules")})
        for name in MACHINES:
            register(clean, name)
        clean.register_hypervisors()
        clean.wait_in_sync()

    try:
        with watched(*clean.lab.hypervisors.values()) as seen:
            write_back()
            for end_it in (clean.controller.stop, clean.controller.kill):
                end_it()
                clean.controller.start()
                clean.wait_in_sync()
            for host in clean.lab.hypervisors.values():
                clean.call("POST", f"/v1/hypervisors/{host.dpid}/resync", expect=202)
            write_back()
        assert seen == {"hv1": [], "hv2": []}
    finally:
        clean.call("DELETE", "/v1/ports/db/rules")


WIDE = {"addresses": [f"192.0.2.{2 * i}" for i in range(20)]}


@pytest.mark.parametrize(
    "old",
    [inbound("udp", "7"), inbound("udp", "7-99", **WIDE), inbound("udp", "7", tags=["app"])],
    ids=["anyone", "own set", "tag"],
)
@pytest.mark.parametrize("by", ["put", "rules"])
def test_T150_one_rule_swapped_for_another_is_the_flows_of_the_two_and_no_others(clean, old, by):
    host = clean.lab.hypervisors["hv1"]
    kept = [inbound("udp", "7800"), inbound("tcp", "80", tags=["app"])]
    new = {**old, "ports": "1000-1999"}
    wall = Wall(clean, inbound_rules=[*kept, old])
    clean.settle()
    before = by_rule(host)
    with watched(*clean.lab.hypervisors.values()) as seen:
        if by == "put":
            wall.put([*kept, new])
        else:
            wall.has(new)
            wall.lacks(old)
    after = by_rule(host)
    (gone,), (come,) = before.keys() - after.keys(), after.keys() - before.keys()
    assert {rule: after[rule] for rule in before.keys() & after.keys()} == {
        rule: before[rule] for rule in before.keys() & after.keys()
    }
    assert seen["hv2"] == []
    happened = Counter()
    for line in seen["hv1"]:
        if not HOLDS_GENERATION.search(line):
            kind, number = cookie_parts(int(re.search(r"cookie=(0x\w+)", line)[1], 16))
            happened[re.search(r"event=(\w+)", line)[1], kind, number if kind is Kind.RULE else 0] += 1
    asked = {key: count for key, count in happened.items() if key[1] is Kind.FIREWALL}
    assert happened == {("DELETED", Kind.RULE, gone): before[gone], ("ADDED", Kind.RULE, come): after[come], **asked}
    # what a firewall asks changes with a set of a rule's own: a flow for packets that open connections, one for others
    changes = 0 if "192.0.2.0" not in str(old) else 1 if by == "put" else 2
    assert sum(asked.values()) == 2 * changes


def by_rule(host):
    """How many flows each rule has on a switch, by the rule's id."""
    parts = [cookie_parts(int(re.search(r"cookie=(0x\w+)", line)[1], 16)) for line in host.flows()]
    return Counter(part[1] for part in parts if part and part[0] is Kind.RULE)
