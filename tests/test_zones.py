"""Connection limits of ports: kept, told over REST, and carried to Open vSwitch by the fewest commands.

The command talks to a controller's API and to programs that stand in for Open vSwitch; test_lab_zones.py has a real
one, with packets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from alembic import command
from alembic.config import Config
from api_server import HV1, HV2, TENANT, VIEWER, World, port
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg
from sqlalchemy import NullPool, create_engine, text
from test_settings import conf

from firewall_app import zones
from firewall_app.pipeline.plan import units
from firewall_app.policy.model import Droplet, Hypervisor, Port
from firewall_app.remote import read
from firewall_app.settings import Settings
from firewall_app.settings import read as read_settings
from firewall_app.store import Store
from firewall_app.zones import COULD_NOT, IN_STEP, NOT_IN_STEP, Tool, commands, limits_in, main, wanted_limits

if TYPE_CHECKING:
    from postgresql import Server

pytest_plugins = ("postgresql",)

MOST = 2**31 - 1
DP = "netdev@ovs-netdev"
PORT = Port("p1", 1, HV1, "tap0", None, "02:00:00:00:00:01", ("10.0.0.1",), slot=7)


# --------------------------------------------------------------------------------------------- kept


@pytest.mark.parametrize("number", [None, 0, 1, MOST])
def test_a_port_may_have_a_limit_of_its_own(number: int | None) -> None:
    limited = replace(PORT, max_connections=number)
    assert limited.max_connections == number
    assert (limited == PORT) == (number is None)


@pytest.mark.parametrize("number", [-1, MOST + 1])
def test_a_limit_that_open_vswitch_may_not_know_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"{number} is not a number of connections"):
        replace(PORT, max_connections=number)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        return server.database()
    return f"sqlite:///{tmp_path}/firewall.db"


def keep(url: str, *entities: Hypervisor | Droplet | Port) -> None:
    with closing(Store.open(url)) as store:
        policy, history = store.load()
        draft = policy.edit()
        for entity in entities:
            draft.put(entity)
        store.commit(draft.changes, draft.counters, history.point)


def kept(url: str) -> int | None:
    with closing(Store.open(url)) as store:
        return store.load()[0].ports["p1"].max_connections


def test_the_store_keeps_a_limit_and_that_there_is_none(url: str) -> None:
    keep(url, Hypervisor(HV1, ""), Droplet(1), PORT)
    assert kept(url) is None
    for number in (5, 0, MOST, None):
        keep(url, replace(PORT, max_connections=number))
        assert kept(url) == number


def test_ports_of_a_database_of_before_have_no_limit_of_their_own(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(resources.files("firewall_app.store") / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for statement in (
            f"INSERT INTO hypervisors (dpid, name) VALUES ('{HV1}', '')",
            "INSERT INTO droplets (id, account, name, tags) VALUES (1, 'default', '', '[]')",
            "INSERT INTO ports (id, droplet_id, hypervisor, interface, mac, addresses, slot)"
            f" VALUES ('p1', 1, '{HV1}', 'tap0', '{PORT.mac}', '[\"10.0.0.1\"]', 7)",
        ):
            connection.execute(text(statement))
    with closing(Store.open(url)) as store:
        found = store.load()[0].ports["p1"]
    assert (found, found.slot) == (PORT, 7)
    keep(url, replace(PORT, max_connections=5))
    assert kept(url) == 5


def test_a_limit_in_the_database_that_cannot_be_is_named(url: str) -> None:
    keep(url, Hypervisor(HV1, ""), Droplet(1), PORT)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE ports SET max_connections = -5"))
    with pytest.raises(Exception, match="table ports, id p1: -5 is not a number of connections"):
        kept(url)


# --------------------------------------------------------------------------------------------- the setting


def test_the_default_is_no_limit_and_the_option_has_bounds(tmp_path: Path) -> None:
    assert Settings().max_port_connections == 0
    assert read_settings(conf(tmp_path, f"max_port_connections = {MOST}")).max_port_connections == MOST
    for wrong in (-1, MOST + 1, "many"):
        with pytest.raises(cfg.Error, match="max_port_connections"):
            read_settings(conf(tmp_path, f"max_port_connections = {wrong}"))


# --------------------------------------------------------------------------------------------- the API


@pytest.fixture
def world() -> World:
    return World().furnish()


def limit(world: World, port_id: str, number: int | None) -> Any:
    """PUT of what GET says, with another limit."""
    return world.good("PUT", f"/v1/ports/{port_id}", {**get(world, port_id), "max_connections": number})


def get(world: World, port_id: str) -> Any:
    return world.good("GET", f"/v1/ports/{port_id}")


def test_a_limit_is_put_and_read_and_taken_back_by_leaving_it_out(world: World) -> None:
    assert get(world, "p101")["max_connections"] is None
    for number in (5, 0, MOST, None):
        assert limit(world, "p101", number)["max_connections"] == number
        assert get(world, "p101")["max_connections"] == number
    limit(world, "p101", 5)
    revision = world.core.revision
    limit(world, "p101", 5)
    assert world.core.revision == revision
    answer = world.good("PUT", "/v1/ports/p101", port(101, HV1, "tap3", "203.0.113.1", "2001:db8::1"))
    assert answer["max_connections"] is None
    assert [p["max_connections"] for p in world.good("GET", "/v1/ports")["ports"]] == [None] * 3


@pytest.mark.parametrize("wrong", [-1, MOST + 1, 10**30, "5", 1.5, True, [], {}])
def test_a_limit_that_is_none_is_a_fault_of_its_field(world: World, wrong: object) -> None:
    answer = world.call("PUT", "/v1/ports/p101", {**get(world, "p101"), "max_connections": wrong, "mac": "x"})
    assert (answer.status, sorted(answer.problems)) == (422, ["mac", "max_connections"])
    assert get(world, "p101")["max_connections"] is None


def test_no_flow_depends_on_a_limit(world: World) -> None:
    before = world.core.policy
    slot = before.ports["p101"].slot
    limit(world, "p101", 5)
    after = world.core.policy
    assert after.ports["p101"].max_connections == 5
    assert after.ports["p101"].slot == slot
    interfaces = world.switches[HV1].interfaces
    assert units(after, HV1, interfaces, world.core.rulings) == units(before, HV1, interfaces, world.core.rulings)


def test_the_zones_of_a_hypervisor_are_told_with_the_limits_that_hold(world: World) -> None:
    slots = {p.id: p.slot for p in world.core.policy.ports.values()}
    limit(world, "p102", 9)
    assert world.good("GET", f"/v1/hypervisors/{HV1}/zones", token=VIEWER) == {
        "zones": [
            {"zone": slots["p101"], "port": "p101", "droplet_id": 101, "max_connections": 0},
            {"zone": slots["p102"], "port": "p102", "droplet_id": 102, "max_connections": 9},
        ]
    }
    world.good("DELETE", "/v1/ports/p101")
    world.good("PUT", "/v1/ports/p101", port(101, HV1, "tap3"))  # with a new slot, behind the other's
    assert [zone["port"] for zone in world.good("GET", f"/v1/hypervisors/{HV1}/zones")["zones"]] == ["p102", "p101"]
    assert [zone["port"] for zone in world.good("GET", f"/v1/hypervisors/{HV2}/zones")["zones"]] == ["p103"]


def test_ports_without_a_limit_of_their_own_have_that_of_the_setting() -> None:
    world = World(settings=Settings(max_port_connections=100)).furnish()
    limit(world, "p101", 0)
    limit(world, "p102", 7)
    told = [z for dpid in (HV1, HV2) for z in world.good("GET", f"/v1/hypervisors/{dpid}/zones")["zones"]]
    assert {z["port"]: z["max_connections"] for z in told} == {"p101": 0, "p102": 7, "p103": 100}
    assert get(world, "p103")["max_connections"] is None


def test_zones_are_for_operators_and_viewers_and_of_hypervisors_that_exist(world: World) -> None:
    assert world.call("GET", f"/v1/hypervisors/{HV1}/zones", token=TENANT).status == 403
    assert world.call("GET", f"/v1/hypervisors/{HV1}/zones", token=None).status == 401
    assert world.call("GET", "/v1/hypervisors/00000000000000ab/zones").status == 404
    paths = world.good("GET", "/openapi.json")["paths"]
    assert list(paths["/v1/hypervisors/{dpid}/zones"]) == ["get"]


def test_a_policy_read_over_rest_has_the_limits(world: World) -> None:
    limit(world, "p102", 7)
    found = read(lambda path: world.good("GET", path)).policy.ports
    assert {name: p.max_connections for name, p in found.items()} == {"p101": None, "p102": 7, "p103": None}


# --------------------------------------------------------------------------------------------- which commands


@pytest.mark.parametrize(
    ("wanted", "in_force", "appctl", "vsctl"),
    [
        ({}, {}, [], []),
        ({5: 10}, {5: 10}, [], []),
        ({}, {0: 3, 65001: 4, 65535: 5}, [], []),
        (
            {5: 10, 2: MOST},
            {},
            [f"dpctl/ct-set-limits {DP} zone=2,limit={MOST} zone=5,limit=10"],
            [f"-- set-zone-limit netdev zone=2 {MOST} -- set-zone-limit netdev zone=5 10"],
        ),
        (
            {5: 10, 6: 1},
            {5: 9, 6: 1, 1: 8, 65000: 2, 0: 7},
            [f"dpctl/ct-set-limits {DP} zone=5,limit=10", f"dpctl/ct-del-limits {DP} zone=1,65000"],
            [
                "-- set-zone-limit netdev zone=5 10 -- --if-exists del-zone-limit netdev zone=1"
                " -- --if-exists del-zone-limit netdev zone=65000"
            ],
        ),
        ({7: 1}, {7: 0}, [f"dpctl/ct-set-limits {DP} zone=7,limit=1"], ["-- set-zone-limit netdev zone=7 1"]),
        ({}, {7: 0}, [f"dpctl/ct-del-limits {DP} zone=7"], ["-- --if-exists del-zone-limit netdev zone=7"]),
    ],
)
def test_what_differs_is_set_and_removed_and_nothing_else(
    wanted: dict[int, int], in_force: dict[int, int], appctl: list[str], vsctl: list[str]
) -> None:
    for tool, expected in ((Tool.APPCTL, appctl), (Tool.VSCTL, vsctl)):
        assert [" ".join(words) for words in commands(wanted, in_force, DP, tool)] == expected


def carried_out(limits: dict[int, int], tool: Tool, words: tuple[str, ...]) -> dict[int, int]:
    """The limits after a command, as the manuals have it."""
    after = dict(limits)
    if tool is Tool.APPCTL:
        assert words[1] == DP
        if words[0] == "dpctl/ct-del-limits":
            assert len(words) == 3
            for zone in words[2].removeprefix("zone=").split(","):
                after.pop(int(zone), None)
            return after
        assert words[0] == "dpctl/ct-set-limits"
        for word in words[2:]:
            zone, number = (int(part.partition("=")[2]) for part in word.split(","))
            after[zone] = number
        return after
    assert words[0] == "--"
    for step in " ".join(words[1:]).split(" -- "):
        verb, kind, zone, *number = step.removeprefix("--if-exists ").split()
        assert kind == "netdev"
        if verb == "set-zone-limit":
            after[int(zone.removeprefix("zone="))] = int(number[0])
        else:
            assert (verb, number) == ("del-zone-limit", [])
            after.pop(int(zone.removeprefix("zone=")), None)
    return after


zone_ids = st.sampled_from([1, 2, 3, 64999, 65000]) | st.integers(1, 65000)
own_limits = st.dictionaries(zone_ids, st.sampled_from([1, 2, MOST]), max_size=8)
all_limits = st.dictionaries(
    zone_ids | st.sampled_from([0, 65001, 65535]), st.sampled_from([0, 1, 2, MOST]), max_size=8
)


@given(own_limits, all_limits, st.sampled_from(Tool))
def test_afterwards_our_zones_are_as_wanted_and_others_as_they_were(
    wanted: dict[int, int], in_force: dict[int, int], tool: Tool
) -> None:
    found = commands(wanted, in_force, DP, tool)
    assert len(found) <= (2 if tool is Tool.APPCTL else 1)
    after = in_force
    for words in found:
        after = carried_out(after, tool, words)
    assert after == {zone: number for zone, number in in_force.items() if not 1 <= zone <= 65000} | wanted
    assert commands(wanted, after, DP, tool) == ()


@pytest.mark.parametrize("tool", Tool)
def test_many_zones_make_commands_that_linux_can_start(tool: Tool) -> None:
    """An argument may have 128 KiB, and all of them 2 MiB."""
    everywhere = dict.fromkeys(range(1, 65001), MOST)
    for wanted, before in ((everywhere, {}), ({}, everywhere)):
        after = dict(before)
        for words in commands(wanted, before, DP, tool):
            assert sum(len(word) + 9 for word in words) < 100_000
            after = carried_out(after, tool, words)
        assert after == wanted


def test_limits_in_force_are_read() -> None:
    assert limits_in("default limit=0\n") == {}
    told = "default limit=7\nzone=0,limit=3,count=0\nzone=65000,limit=4294967295,count=12"
    assert limits_in(told) == {0: 3, 65000: 4294967295}
    assert limits_in("default limit=0\nzone=5,limit=10\n") == {5: 10}


@pytest.mark.parametrize("told", ["", "zone=5,limit=10,count=0", "default limit=0\nzone=5", "default limit=0\n\n\nx"])
def test_what_is_no_answer_about_limits_is_not_taken_for_none(told: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        limits_in(told)


def zone(number: object, most: object) -> dict[str, object]:
    return {"zone": number, "port": "p", "droplet_id": 1, "max_connections": most}


def test_zones_without_a_limit_want_none_and_a_shared_zone_the_laxer_one() -> None:
    assert wanted_limits([zone(1, 5), zone(2, 0), zone(3, MOST)]) == {1: 5, 3: MOST}
    assert wanted_limits([zone(1, 5), zone(1, 9), zone(2, 9), zone(2, 5)]) == {1: 9, 2: 9}
    assert wanted_limits([zone(1, 5), zone(1, 0), zone(2, 0), zone(2, 5)]) == {}


@pytest.mark.parametrize(
    "wrong", [zone(0, 5), zone(65001, 5), zone("1", 5), zone(True, 5), zone(1, -1), zone(1, MOST + 1), zone(1, None)]
)
def test_zones_that_the_controller_cannot_mean_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no"):
        wanted_limits([zone(1, 5), wrong])


# --------------------------------------------------------------------------------------------- the command

STAND_IN = """
    import json, pathlib, sys
    file = pathlib.Path(__file__).with_name("state.json")
    before = file.read_text()
    state = json.loads(before)
    program, words = pathlib.Path(__file__).name, sys.argv[1:]
    limits, lasting = state["limits"], state["lasting"]

    def end(text="", wrong=None):
        if json.dumps(state) != before:
            file.with_suffix(".new").write_text(json.dumps(state))
            file.with_suffix(".new").replace(file)
        print(wrong or text, file=sys.stderr if wrong else sys.stdout)
        sys.exit(1 if wrong else 0)

    if words[0] == "-t":
        assert words[1] == state["target"], words
        words = words[2:]
    words = [word for word in words if not word.startswith(("--timeout=", "--db="))]
    if words[0] not in ("dpctl/dump-dps", "dpctl/ct-get-limits", "--commands"):
        state["log"].append([program, *words])
    if words[0] in state["broken"] or program in state["broken"]:
        end(wrong=f"{program}: out of order")
    if words == ["--commands"]:
        end(",add-zone-tp,\\n" + (",set-zone-limit,\\n" if state["lasting"] is not None else ""))
    if words == ["dpctl/dump-dps"]:
        end("\\n".join(state["datapaths"]))
    if words[0] == "--":
        for step in " ".join(words[1:]).split(" -- "):
            verb, kind, zone, *most = step.removeprefix("--if-exists ").split()
            assert kind == "netdev", words
            zone = zone.removeprefix("zone=")
            if verb == "set-zone-limit":
                limits[zone] = lasting[zone] = int(most[0])
            elif zone in lasting:
                del limits[zone], lasting[zone]
        end()
    assert words[1] == "netdev@ovs-netdev", words
    if words[0] == "dpctl/ct-get-limits":
        end("\\n".join(["default limit=0", *(f"zone={z},limit={n},count=0" for z, n in limits.items())]))
    for word in words[2:]:
        if words[0] == "dpctl/ct-set-limits":
            zone, most = (part.partition("=")[2] for part in word.split(","))
            limits[zone] = int(most)
        else:
            assert words[0] == "dpctl/ct-del-limits", words
            for zone in word.removeprefix("zone=").split(","):
                del limits[zone]
    end()
"""


class StandIn:
    """Programs named as those of Open vSwitch, and what they remember."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "state.json"
        self.set(limits={}, lasting=None, broken=[], log=[], datapaths=[DP], target=None)
        for tool in Tool:
            program = directory / tool.value
            program.write_text(f"#!{sys.executable} -SE\n" + textwrap.dedent(STAND_IN))
            program.chmod(0o755)

    def get(self, name: str) -> Any:
        return json.loads(self._file.read_text())[name]

    def set(self, **values: object) -> None:
        old = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._file.with_suffix(".mine").write_text(json.dumps(old | values))
        self._file.with_suffix(".mine").replace(self._file)  # the programs may be reading

    @property
    def limits(self) -> dict[int, int]:
        return {int(zone): number for zone, number in self.get("limits").items()}

    def log(self) -> list[str]:
        """The commands since last asked that were to change something."""
        found = [" ".join(words) for words in self.get("log")]
        self.set(log=[])
        return found


@pytest.fixture
def ovs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return StandIn(directory)


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(world: World) -> Iterator[str]:
    """The controller's API at a URL."""
    with make_server("127.0.0.1", 0, world.application, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


Run = Callable[..., int]


@pytest.fixture
def run(world: World, ovs: StandIn, tmp_path: Path) -> Iterator[Run]:
    token = tmp_path / "token"
    token.write_text(VIEWER + "\n")
    with served(world) as url:
        yield lambda *more: main(["--api", url, "--token-file", str(token), "--dpid", HV1, *more])


def slot(world: World, port_id: str) -> int:
    return world.core.policy.ports[port_id].slot


def test_the_limits_of_the_policy_come_into_force_and_go(world: World, ovs: StandIn, run: Run) -> None:
    one, two = slot(world, "p101"), slot(world, "p102")
    ovs.set(limits={"0": 3, "65001": 4, "60000": 9})
    limit(world, "p101", 5)
    limit(world, "p103", 77)  # which is on another hypervisor
    assert run() == IN_STEP
    assert ovs.limits == {0: 3, 65001: 4, one: 5}
    assert ovs.log() == [
        f"ovs-appctl dpctl/ct-set-limits {DP} zone={one},limit=5",
        f"ovs-appctl dpctl/ct-del-limits {DP} zone=60000",
    ]
    assert run() == IN_STEP
    assert ovs.log() == []
    limit(world, "p102", 6)
    assert run() == IN_STEP
    assert ovs.log() == [f"ovs-appctl dpctl/ct-set-limits {DP} zone={two},limit=6"]
    world.good("DELETE", "/v1/ports/p101")
    limit(world, "p102", 0)
    assert run() == IN_STEP
    assert ovs.limits == {0: 3, 65001: 4}


def test_bridges_of_one_machine_share_their_zones(world: World, ovs: StandIn, run: Run) -> None:
    limit(world, "p101", 5)
    limit(world, "p103", 77)
    assert run("--dpid", HV2.upper()) == IN_STEP
    assert ovs.limits == {slot(world, "p101"): 5, slot(world, "p103"): 77}


def test_a_dry_run_prints_what_would_be_done(
    world: World, ovs: StandIn, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dry-run") == IN_STEP
    limit(world, "p101", 5)
    capsys.readouterr()
    assert run("--dry-run") == NOT_IN_STEP
    line = f"ovs-appctl dpctl/ct-set-limits {DP} zone={slot(world, 'p101')},limit=5\n"
    assert capsys.readouterr() == (line, "")
    assert (ovs.limits, ovs.log()) == ({}, [])


def test_where_ovs_vsctl_can_the_limits_are_made_to_last(world: World, ovs: StandIn, run: Run) -> None:
    one = slot(world, "p101")
    ovs.set(lasting={"60000": 9}, limits={"60000": 9})
    limit(world, "p101", 5)
    assert run("--db", "unix:db.sock") == IN_STEP
    assert ovs.log() == [
        f"ovs-vsctl -- set-zone-limit netdev zone={one} 5 -- --if-exists del-zone-limit netdev zone=60000"
    ]
    assert (ovs.limits, ovs.get("lasting")) == ({one: 5}, {str(one): 5})
    assert run() == IN_STEP
    assert ovs.log() == []


def test_what_ovs_vsctl_cannot_do_ovs_appctl_does(
    world: World, ovs: StandIn, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    one = slot(world, "p101")
    limit(world, "p101", 5)
    ovs.set(lasting={}, broken=["--"], limits={"60000": 9})
    assert run() == IN_STEP
    assert ovs.limits == {one: 5}
    assert "ovs-vsctl: out of order" in capsys.readouterr().err
    ovs.set(broken=[], limits={str(one): 5, "60000": 9})  # that one not by ovs-vsctl
    ovs.log()
    assert run() == IN_STEP
    assert ovs.limits == {one: 5}
    assert [words.split()[0] for words in ovs.log()] == ["ovs-vsctl", "ovs-appctl"]


def test_a_command_that_fails_is_told_and_the_others_are_tried(
    world: World, ovs: StandIn, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    limit(world, "p101", 5)
    ovs.set(broken=["dpctl/ct-set-limits"], limits={"60000": 9})
    assert run() == NOT_IN_STEP
    said = capsys.readouterr().err
    assert f"failed: ovs-appctl dpctl/ct-set-limits {DP} zone=" in said
    assert "ovs-appctl: out of order" in said
    assert ovs.limits == {}
    ovs.set(broken=[])
    assert run() == IN_STEP


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"broken": ["dpctl/ct-get-limits"]}, "out of order"),
        ({"broken": ["dpctl/dump-dps"]}, "out of order"),
        ({"datapaths": []}, "has 0 datapaths"),
        ({"datapaths": ["netdev@a", "netdev@b"]}, "has 2 datapaths: netdev@a netdev@b; name one by --datapath"),
        ({"limits": {"5": "many"}}, "'zone=5,limit=many,count=0' is no limit"),
    ],
)
def test_an_open_vswitch_that_cannot_be_read_is_left_alone(
    world: World, ovs: StandIn, run: Run, capsys: pytest.CaptureFixture[str], state: dict[str, Any], said: str
) -> None:
    limit(world, "p101", 5)
    ovs.set(**state)
    assert run() == COULD_NOT
    assert said in capsys.readouterr().err
    assert ovs.log() == []


def test_a_datapath_and_a_socket_may_be_named(world: World, ovs: StandIn, run: Run) -> None:
    limit(world, "p101", 5)
    ovs.set(datapaths=["netdev@a", DP], target="/run/x.ctl")
    assert run("--datapath", DP, "--target", "/run/x.ctl") == IN_STEP
    assert ovs.limits == {slot(world, "p101"): 5}


def test_without_the_controllers_word_nothing_is_touched(
    world: World, ovs: StandIn, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ovs.set(limits={"5": 5})
    assert run("--dpid", "00000000000000ab") == COULD_NOT
    assert "answered 404" in capsys.readouterr().err
    (tmp_path / "token").write_text("wrong")
    assert run() == COULD_NOT
    assert "answered 401" in capsys.readouterr().err
    (tmp_path / "token").unlink()
    assert run() == COULD_NOT
    assert "token" in capsys.readouterr().err
    (tmp_path / "token").write_text(VIEWER)
    assert run("--api", "http://127.0.0.1:1") == COULD_NOT
    assert run("--api", "nonsense") == COULD_NOT
    assert (ovs.limits, ovs.log()) == ({5: 5}, [])


def test_without_open_vswitch_it_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run() == COULD_NOT
    assert "ovs-appctl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--dpid", "1"], ["--every", "0"], ["--every", "x"], ["--every", "-1"], ["--ever", "1"]]
)
def test_arguments_that_cannot_be(run: Run, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*wrong)
    assert caught.value.code == 2


def test_again_and_again_it_puts_back_what_was_forgotten(world: World, ovs: StandIn, tmp_path: Path) -> None:
    wanted = {slot(world, "p101"): 5}
    limit(world, "p101", 5)
    (tmp_path / "token").write_text(VIEWER)
    with served(world) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "firewall_app.zones", "--api", url, "--token-file", tmp_path / "token",
             "--dpid", HV1, "--every", "0.05"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            until(lambda: ovs.limits == wanted)
            ovs.set(broken=["ovs-appctl"], limits={})  # as while it restarts
            assert process.stderr is not None
            assert "out of order" in process.stderr.readline()
            ovs.set(broken=[])
            until(lambda: ovs.limits == wanted)
        finally:
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=30)
    assert process.returncode in (IN_STEP, COULD_NOT), complained
    assert said.count("ct-set-limits") >= 2
    assert "Traceback" not in complained


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_help_has_an_example_and_a_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert zones.__doc__ is not None
    for words in ("--dry-run", "ExecStart=", "--every 30", "exit status: 0", "ovs-vsctl"):
        assert words in said
