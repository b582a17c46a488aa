"""The whole system: two hypervisors, a controller, real packets.  What passes is what the policy means."""

from __future__ import annotations

import time

import pytest
from frames import (
    BROADCAST,
    ethernet,
    first_fragment,
    ipv4,
    router_advert,
    tcp,
    udp,
)

from lab.cloud import Cloud, inbound, outbound, seconds_until
from lab.controller import Controller
from lab.network import Lab
from lab.truth import OPEN, Case, all_pairs, table

pytestmark = pytest.mark.lab
MACHINES = {"web": ("hv1", 101, ("web",)), "app": ("hv1", 102, ("app",)), "db": ("hv2", 103, ("db",)),
            "ops": ("hv2", 104, ())}  # fmt: skip
SERVICES = (("tcp", 80), ("tcp", 81), ("udp", 53), ("icmp", 0))


@pytest.fixture(scope="module")
def cloud():
    with Lab("t" + hex(int(time.time() * 1000) & 0xFFFFFF)[2:]) as lab:
        for _ in range(2):
            lab.add_hypervisor()
        for name, (host, _, _) in MACHINES.items():
            lab.add_machine(name, host)
        lab.add_outside()
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        built = Cloud(lab, controller)
        built.register_hypervisors()
        for name, (_, droplet_id, tags) in MACHINES.items():
            built.register(name, droplet_id, tags)
        built.wait_in_sync()
        yield built


@pytest.fixture
def clean(cloud):
    """The cloud with no firewall and no rules of a port, before and after."""

    def wipe():
        for firewall in cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
            cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
        for name in MACHINES:
            cloud.call("DELETE", f"/v1/ports/{name}/rules")
        for name, (_, droplet_id, tags) in MACHINES.items():
            cloud.call("PUT", f"/v1/droplets/{droplet_id}", {"name": name, "tags": list(tags)})

    wipe()
    yield cloud
    wipe()


def protect(cloud, name="fw", inbound_rules=(), outbound_rules=(), **attached):
    body = {"name": name, "inbound_rules": list(inbound_rules), "outbound_rules": list(outbound_rules), **attached}
    return cloud.call("POST", "/v2/firewalls", body, expect=202)["firewall"]


def agree(cloud, services=SERVICES, versions=(4, 6)):
    expected, probed, wrong = cloud.compare(all_pairs(cloud.lab.machines, services, versions))
    assert not wrong, table(expected, probed)
    return expected


def one(cloud, source, target, protocol, port=0, version=4):
    """Probes one case, which must go as the policy means; whether it passed."""
    case = Case(source, target, protocol, port, version)
    expected, probed, wrong = cloud.compare([case])
    assert not wrong, table(expected, probed)
    return probed[case] == OPEN


# ---- truth tables


def test_T007_open_then_protected_then_open_again(clean):
    assert all(agree(clean).values())
    firewall = protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    protected = agree(clean)
    assert protected[Case("outside", "web", "tcp", 80, 4)]
    assert not protected[Case("outside", "web", "tcp", 81, 4)]
    assert not protected[Case("web", "app", "icmp", 0, 6)]
    clean.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    assert all(agree(clean).values())


def test_T012_T130_firewalls_add_up_and_both_ends_must_agree(clean):
    protect(clean, "in", inbound_rules=[inbound("tcp", "80-81", tags=["app"]), inbound("icmp", "0")], tags=["web"])
    protect(clean, "out", outbound_rules=[outbound("tcp", "81"), outbound("udp", "53")], droplet_ids=[102])
    protect(clean, "more", inbound_rules=[inbound("udp", "53", droplet_ids=[103])], tags=["web", "db"])
    meant = agree(clean)
    assert not meant[Case("app", "web", "tcp", 80, 4)]  # app may not ask, though web would answer
    assert meant[Case("app", "web", "tcp", 81, 4)]
    assert meant[Case("db", "web", "icmp", 0, 6)] is False  # db is behind `more`, which lets nothing out
    assert meant[Case("outside", "web", "icmp", 0, 6)]


def test_T044_prefixes_of_one_ip_version_do_not_open_the_other(clean):
    protect(clean, inbound_rules=[inbound("tcp", "80", addresses=["0.0.0.0/0"]),
                                  inbound("udp", "53", addresses=["::/0"]),
                                  inbound("icmp", "0", addresses=["10.1.0.4/31"])], tags=["web"])  # fmt: skip
    meant = agree(clean)
    assert meant[Case("outside", "web", "tcp", 80, 4)]
    assert not meant[Case("outside", "web", "tcp", 80, 6)]
    assert meant[Case("outside", "web", "udp", 53, 6)]
    assert not meant[Case("outside", "web", "udp", 53, 4)]


def test_T020_T022_ports_end_where_they_say(clean):
    protect(clean, inbound_rules=[inbound("tcp", "42"), inbound("udp", "1000-1003")], tags=["web"])
    services = [("tcp", p) for p in (41, 42, 43)] + [("udp", p) for p in (999, 1000, 1003, 1004)]
    meant = agree(clean, services)
    assert sorted(c.port for c, passes in meant.items() if passes and c.source == "outside" and c.target == "web") == [
        42, 42, 1000, 1000, 1003, 1003,
    ]  # fmt: skip


def test_rules_of_one_port(clean):
    rules = {"inbound_rules": [inbound("tcp", "80", droplet_ids=[101])], "outbound_rules": []}
    clean.call("PUT", "/v1/ports/ops/rules", rules, expect=200)
    meant = agree(clean)
    assert meant[Case("web", "ops", "tcp", 80, 4)]
    assert not meant[Case("app", "ops", "tcp", 80, 4)]
    clean.call("POST", "/v1/ports/ops/rules", {"inbound_rules": [inbound("icmp", "0")]}, expect=204)
    assert one(clean, "app", "ops", "icmp")
    clean.call("DELETE", "/v1/ports/ops/rules", rules, expect=204)
    assert not one(clean, "web", "ops", "tcp", 80)
    clean.call("DELETE", "/v1/ports/ops/rules", expect=204)
    assert one(clean, "app", "ops", "tcp", 81)


def test_T041_a_tag_member_comes_and_goes(clean):
    protect(clean, inbound_rules=[inbound("tcp", "80", tags=["app"])], tags=["web"])
    assert not one(clean, "ops", "web", "tcp", 80)
    member = {"resources": [{"resource_id": "104", "resource_type": "droplet"}]}
    clean.call("POST", "/v2/tags/app/resources", member, expect=204)
    assert one(clean, "ops", "web", "tcp", 80)
    clean.call("DELETE", "/v2/tags/app/resources", member, expect=204)
    assert not one(clean, "ops", "web", "tcp", 80)


def test_T006_T103_replies_and_port_unreachable_need_no_rule(clean):
    protect(clean, outbound_rules=[outbound("icmp", "0"), outbound("udp", "0"), outbound("tcp", "0")], tags=["web"])
    clean.settle()
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    for version in (4, 6):
        assert web.call("icmp", address=outside.address(version), timeout=2) == "open"
        # nobody listens: TCP is reset, UDP answered by an ICMP error
        assert web.call("tcp", address=outside.address(version), port=4999, timeout=2) == "refused"
        assert web.call("udp", address=outside.address(version), port=4999, timeout=2) == "refused"


# ---- revocation


@pytest.mark.parametrize("version", [4, 6])
def test_T090_T093_an_open_tcp_session_ends_with_its_rule_and_goes_on_with_it(clean, version):
    firewall = protect(clean, inbound_rules=[inbound("tcp", "80"), inbound("tcp", "81")], tags=["web"])
    path = f"/v2/firewalls/{firewall['id']}/rules"
    web, outside, app = (clean.lab.machines[name] for name in ("web", "outside", "app"))
    web.call("listen", tcp=[80, 81], udp=[])
    clean.settle()
    assert outside.call("tcp_open", session="cut", address=web.address(version), port=80) == "open"
    assert app.call("tcp_open", session="cut", address=web.address(version), port=80) == "open"
    assert outside.call("tcp_open", session="kept", address=web.address(version), port=81) == "open"
    clean.call("DELETE", path, {"inbound_rules": [inbound("tcp", "80")]}, expect=204)
    clean.settle()
    assert outside.call("tcp_say", session="kept") == "alive"
    assert outside.call("tcp_say", session="cut", timeout=0.5) == "silent"
    assert app.call("tcp_say", session="cut", timeout=0.5) == "silent"
    clean.call("POST", path, {"inbound_rules": [inbound("tcp", "80")]}, expect=204)
    # what the peers had not got acknowledged is sent again by their TCP
    assert seconds_until(lambda: outside.call("tcp_say", session="cut", timeout=2) == "alive", 10) is not None
    for machine in (outside, app):
        machine.call("tcp_close", session="cut")
    outside.call("tcp_close", session="kept")


@pytest.mark.parametrize(("port", "version"), [(7001, 4), (7002, 6)])
def test_T091_a_reply_only_udp_stream_ends_with_its_rule(clean, port, version):
    firewall = protect(clean, outbound_rules=[outbound("udp", "0"), outbound("icmp", "0")], tags=["web"])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    clean.settle()
    web.call("udp_count", port=port, version=version, knock=[outside.address(version), port])
    stream = outside.submit(
        "udp_stream", stream="s", address=web.address(version), port=port, rate=500, seconds=20, source_port=port
    )
    assert seconds_until(lambda: web.call("udp_counted", port=port)["packets"] > 100, 5) is not None
    gone = time.monotonic()
    clean.call(
        "DELETE", f"/v2/firewalls/{firewall['id']}/rules", {"outbound_rules": [outbound("udp", "0")]}, expect=204
    )
    clean.settle()
    at_answer = web.call("udp_counted", port=port)["packets"]
    time.sleep(1)
    counted = web.call("udp_counted", port=port, end=True)
    outside.call("udp_stop", stream="s")
    stream.result(30)
    assert counted["packets"] == at_answer
    assert counted["last"] - gone < 1


def test_T115_a_live_session_goes_on_when_its_firewall_is_detached_and_attached_again(clean):
    rules = [inbound("tcp", "80")]
    firewall = protect(clean, inbound_rules=rules, tags=["web"])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    web.call("listen", tcp=[80], udp=[])
    clean.settle()
    assert outside.call("tcp_open", session="d", address=web.address(), port=80) == "open"
    clean.call("DELETE", f"/v2/firewalls/{firewall['id']}")
    clean.settle()
    # more than a window, unseen by the tracker
    assert outside.call("tcp_say", session="d", kilobytes=300, timeout=5) == "alive"
    firewall = protect(clean, inbound_rules=rules, tags=["web"])
    clean.settle()
    for _ in range(5):
        assert outside.call("tcp_say", session="d", timeout=3) == "alive"
    clean.call("DELETE", f"/v2/firewalls/{firewall['id']}/rules", {"inbound_rules": rules}, expect=204)
    clean.settle()
    assert outside.call("tcp_say", session="d", timeout=0.5) == "silent"
    outside.call("tcp_close", session="d")


@pytest.mark.parametrize("version", [4, 6])
def test_T120_fragments_pass_by_the_rule_of_their_port_also_after_the_policy_changed(clean, version):
    firewall = protect(clean, inbound_rules=[inbound("udp", "7000"), inbound("tcp", "1")], tags=["web"])
    path = f"/v2/firewalls/{firewall['id']}/rules"
    web = clean.lab.machines["web"]
    web.call("listen", tcp=[], udp=[7000, 7001])
    clean.settle()

    def big(source, port):
        return clean.lab.machines[source].call(
            "udp", address=web.address(version), port=port, size=4000, source_port=6000, timeout=1
        )

    for source in ("outside", "app"):
        assert big(source, 7000) == "open"
        assert big(source, 7001) == "timeout"
    clean.call("DELETE", path, {"inbound_rules": [inbound("tcp", "1")]}, expect=204)  # judges everything again
    clean.settle()
    for source in ("outside", "app"):
        assert big(source, 7000) == "open"
        assert big(source, 7001) == "timeout"
    clean.call("DELETE", path, {"inbound_rules": [inbound("udp", "7000")]}, expect=204)
    clean.settle()
    for source in ("outside", "app"):
        assert big(source, 7000) == "timeout"


def test_T141_an_allowed_stream_loses_nothing_to_changes_that_concern_it_not(clean):
    protect(clean, inbound_rules=[inbound("udp", "7003"), inbound("icmp", "0")], tags=["web"])
    other = protect(clean, "other", inbound_rules=[inbound("tcp", "1")], tags=["web"])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    clean.settle()
    web.call("udp_count", port=7003)
    stream = outside.submit("udp_stream", stream="t", address=web.address(), port=7003, rate=500, seconds=5)
    for number in range(20):
        rule = {"inbound_rules": [inbound("tcp", str(1000 + number))]}
        clean.call("POST", f"/v2/firewalls/{other['id']}/rules", rule)
        clean.call("DELETE", f"/v2/firewalls/{other['id']}/rules", rule)  # bumps the generation each time
    sent = stream.result(30)["sent"]
    assert sent > 2000
    assert seconds_until(lambda: web.call("udp_counted", port=7003)["packets"] == sent, 3) is not None
    web.call("udp_counted", port=7003, end=True)


# ---- the controller comes and goes


def test_T160_T161_T148_a_restart_under_traffic_loses_nothing_and_changes_no_flow(clean):
    protect(clean, inbound_rules=[inbound("udp", "7004"), inbound("tcp", "80")], tags=["web"])
    web, outside, app = (clean.lab.machines[name] for name in ("web", "outside", "app"))
    hypervisors = clean.lab.hypervisors.values()
    web.call("listen", tcp=[80], udp=[])
    clean.settle()
    web.call("udp_count", port=7004)
    web.call("udp_count", port=7005)
    assert app.call("tcp_open", session="r", address=web.address(), port=80) == "open"
    before = [sorted(h.flows()) for h in hypervisors]
    allowed = outside.submit("udp_stream", stream="a", address=web.address(), port=7004, rate=500, seconds=60)
    forbidden = outside.submit("udp_stream", stream="f", address=web.address(), port=7005, rate=500, seconds=60)
    for end in ("kill", "stop"):
        getattr(clean.controller, end)()
        time.sleep(0.5)
        clean.controller.start()
        clean.wait_in_sync()
    outside.call("udp_stop", stream="a")
    outside.call("udp_stop", stream="f")
    sent = allowed.result(30)["sent"]
    assert forbidden.result(30)["sent"] > 1000
    assert seconds_until(lambda: web.call("udp_counted", port=7004)["packets"] == sent, 3) is not None, (
        web.call("udp_counted", port=7004), sent)  # fmt: skip
    assert web.call("udp_counted", port=7005, end=True)["packets"] == 0
    web.call("udp_counted", port=7004, end=True)
    assert app.call("tcp_say", session="r") == "alive"
    app.call("tcp_close", session="r")
    assert [sorted(h.flows()) for h in hypervisors] == before
    log = clean.controller.log.read_text()
    # nothing was sent to a switch after the restarts: no line of a bundle in the last log
    assert "change in force" in log
    assert "change in force" not in log.rsplit("cloud firewall", 1)[1]


def test_T162_what_was_asked_while_a_switch_was_away_is_done_when_it_returns(clean):
    host = clean.lab.hypervisors["hv1"]
    firewall = protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    host.connect()  # no controller: OvS clears its flows, as after a restart of the switch
    answer = clean.ask("POST", f"/v2/firewalls/{firewall['id']}/rules", {"inbound_rules": [inbound("tcp", "81")]})
    assert answer.status == 204
    seen = clean.call("GET", f"/v2/firewalls/{firewall['id']}")["firewall"]
    assert seen["status"] == "waiting"
    assert seen["pending_changes"] == [{"droplet_id": 101, "removing": False, "status": "waiting"}]
    clean.lab.connect(clean.controller.openflow_port)
    clean.wait_in_sync()
    assert clean.call("GET", f"/v2/firewalls/{firewall['id']}")["firewall"]["status"] == "succeeded"
    assert one(clean, "outside", "web", "tcp", 81)
    agree(clean)


def test_T163_a_killed_switch_gets_its_flows_back(clean):
    protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    host = clean.lab.hypervisors["hv1"]

    def shape():
        from re import sub

        changing = r"ct_mark=\w+|load:\w+->NXM_NX_CT_MARK|pkt_mark=\w+/\w+"
        return sorted(sub(changing, "", line) for line in host.flows())

    before = shape()
    host.ovs.kill_switch()
    host.ovs.start_switch()
    assert seconds_until(lambda: shape() == before, 20) is not None
    clean.wait_in_sync()
    agree(clean, [("tcp", 80), ("tcp", 81)])


# ---- interfaces


def test_T166_an_interface_that_appears_later_is_closed_until_it_is_programmed(clean):
    lab = clean.lab
    protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    lab.unplug("web")
    assert seconds_until(lambda: clean.call("GET", "/v1/ports/web")["status"] == "absent", 5) is not None
    assert lab.machines["outside"].call("tcp", address=lab.machines["web"].address(), port=80) != "open"
    lab.plug("web")
    assert seconds_until(lambda: clean.call("GET", "/v1/ports/web")["status"] == "succeeded", 5) is not None
    agree(clean, [("tcp", 80), ("tcp", 81)])


def test_T135_a_port_that_nobody_registered_reaches_nothing(clean):
    lab = clean.lab
    stranger = lab.machines.get("stranger") or lab.add_machine("stranger", "hv1")
    try:
        for target in ("web", "app", "db", "outside"):
            assert stranger.call("icmp", address=lab.machines[target].address()) in ("timeout", "unreachable")
            assert lab.machines[target].call("icmp", address=stranger.address()) in ("timeout", "unreachable")
    finally:
        lab.unplug("stranger")
        lab.machines.pop("stranger").close()


# ---- spoofing and escape, frame by frame


def arrives(cloud, sender, receiver, frame, marker, seconds=0.5):
    """Whether a frame that `sender` puts on the wire comes out at `receiver`; `marker` is in it."""
    target = cloud.lab.machines[receiver]
    target.call("capture", capture="c", contains=marker)
    cloud.lab.machines[sender].call("send_frames", frames=[frame])
    return bool(target.call("captured", capture="c", seconds=seconds, count=1))


@pytest.mark.parametrize("receiver", ["db", "app", "outside"])
def test_T068_an_open_droplet_hides_nothing_in_the_second_fragment(clean, receiver):
    """`ops` is behind no firewall, so table 0 alone stands between it and its neighbours."""
    me, you = clean.lab.machines["ops"], clean.lab.machines[receiver]
    a, b = me.address(6), you.address(6)
    options = bytes([58, 0, 1, 4, 0, 0, 0, 0])  # a destination options header; the next is ICMPv6, in the next fragment
    for name, head, payload, passes in (
        ("no transport header", 60, options, False),
        ("half a header of options", 60, bytes([58, 3, 1, 4, 0, 0, 0, 0]), False),
        ("a whole UDP header", 17, udp(a, b, 5000, 5001, b"#" * 24), True),
    ):
        frame = first_fragment(a, b, head, payload)
        assert arrives(clean, "ops", receiver, ethernet(you.mac, me.mac, 0x86DD, frame), frame.hex()) is passes, name


def test_T068_T132_what_may_come_from_outside_and_what_not(clean):
    protect(clean, inbound_rules=[inbound("tcp", "80")], tags=["web"])
    clean.settle()
    outside, web = clean.lab.machines["outside"], clean.lab.machines["web"]
    ra = router_advert(outside.link_local, outside.mac)
    assert arrives(clean, "outside", "web", ethernet("33:33:00:00:00:01", outside.mac, 0x86DD, ra), ra.hex())
    address, multicast = outside.address(), "239.1.2.3"
    group = ipv4(address, multicast, 17, udp(address, multicast, 5, 5, b"group" * 5))
    assert not arrives(clean, "outside", "web", ethernet("01:00:5e:01:02:03", outside.mac, 0x0800, group), group.hex())
    tagged = ipv4(address, web.address(), 6, tcp(address, web.address(), 9, 80, 2))
    assert not arrives(clean, "outside", "web", ethernet(web.mac, outside.mac, 0x0800, tagged, vlan=7), tagged.hex())
    assert arrives(clean, "outside", "web", ethernet(web.mac, outside.mac, 0x0800, tagged), tagged.hex())
    offer = ipv4(address, "255.255.255.255", 17, udp(address, "255.255.255.255", 67, 68, b"offer" * 5))
    assert arrives(clean, "outside", "web", ethernet(BROADCAST, outside.mac, 0x0800, offer), offer.hex())


def test_T061_a_droplet_that_changes_its_address_is_cut_off_over_ip_and_arp(clean):
    app = clean.lab.machines["app"]
    app.add_address("10.1.0.99/16")
    try:
        for target in ("web", "outside"):
            address = clean.lab.machines[target].address()
            clean.lab.machines[target].forget_neighbours()
            assert app.call("icmp", address=address, source="10.1.0.99") != "open"
            assert clean.lab.machines[target].call("icmp", address="10.1.0.99") != "open"
            assert app.call("icmp", address=address, timeout=2) == "open"
    finally:
        app.del_address("10.1.0.99/16")


# ---- the API keeps its word


def test_an_answer_with_wait_means_that_packets_obey(clean):
    firewall = protect(clean, inbound_rules=[inbound("tcp", "81")], tags=["web"])
    web, outside = clean.lab.machines["web"], clean.lab.machines["outside"]
    web.call("listen", tcp=[80], udp=[])
    rule = {"inbound_rules": [inbound("tcp", "80")]}
    for _ in range(10):
        clean.call("POST", f"/v2/firewalls/{firewall['id']}/rules", rule, expect=204)
        clean.settle()
        assert outside.call("tcp", address=web.address(), port=80, timeout=2) == "open"
        clean.call("DELETE", f"/v2/firewalls/{firewall['id']}/rules", rule, expect=204)
        clean.settle()
        assert outside.call("tcp", address=web.address(), port=80, timeout=0.2) == "timeout"


def test_flows_are_shown_as_read_back_with_the_rule_they_come_from(clean):
    firewall = protect(clean, inbound_rules=[inbound("tcp", "80", addresses=["192.0.2.0/24"])], tags=["web"])
    dpid = clean.lab.hypervisors["hv1"].dpid
    flows = clean.call("GET", f"/v1/hypervisors/{dpid}/flows?per_page=200")["flows"]
    mine = [flow for flow in flows if "nw_src=192.0.2.0/24" in flow["flow"]]
    assert len(mine) == 1
    assert mine[0]["rule"]["firewall"]["id"] == firewall["id"]
    assert len(clean.lab.hypervisors["hv1"].flows()) == len(flows)
