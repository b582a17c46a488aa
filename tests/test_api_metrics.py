"""`GET /metrics`: who may read it, that it says what is so, and that the manual has it all."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from api_server import HV1, HV2, OPERATOR, START, TENANT, VIEWER, World
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families

from firewall_app import __version__, tls
from firewall_app.api.metrics import Metrics
from firewall_app.policy.errors import StoreError
from firewall_app.progress import Progress, SwitchReport, Sync, Totals
from firewall_app.service.access import Caller, Role
from firewall_app.service.deed import Deed
from firewall_app.settings import Settings
from lab.controller import Controller

MANUAL = Path(__file__).parent.parent / "docs/operations.md"


@pytest.fixture
def world() -> World:
    return World().furnish()


def parsed(text: str) -> dict[str, Metric]:
    """The families by the names that stand in the text: the parser takes `_total` off."""
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    found = {
        family.name if family.name in names else f"{family.name}_total": family
        for family in text_string_to_metric_families(text)
    }
    assert found.keys() == names
    return found


def scrape(world: World) -> dict[str, Metric]:
    answer = world.call("GET", "/metrics", token=VIEWER)
    assert answer.status == 200
    return parsed(answer.body.decode())


def value(world: World, name: str, **labels: str) -> float | None:
    """One sample; None when there is none with these labels."""
    samples = (sample for family in scrape(world).values() for sample in family.samples)
    return next((s.value for s in samples if s.name == name and s.labels == labels), None)


# --------------------------------------------------------------------------------------------- who may


@pytest.mark.parametrize(("token", "code"), [(OPERATOR, 200), (VIEWER, 200), (TENANT, 403), ("x", 401), (None, 401)])
def test_operators_and_viewers_may_read_it(world: World, token: str | None, code: int) -> None:
    assert world.call("GET", "/metrics", token=token).status == code


def test_a_viewer_of_one_account_may_not(world: World) -> None:
    world.access.grant("narrow", Caller(Role.VIEWER, "acme"))
    assert world.call("GET", "/metrics", token="narrow").status == 403


@pytest.mark.parametrize("token", [None, "x", TENANT])
def test_open_means_everybody(token: str | None) -> None:
    assert World(Settings(metrics="open")).call("GET", "/metrics", token=token).status == 200


def test_off_means_nobody() -> None:
    assert World(Settings(metrics="off")).call("GET", "/metrics", token=OPERATOR).status == 404


def test_it_is_text_of_the_format_that_prometheus_reads(world: World) -> None:
    answer = world.call("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert world.call("HEAD", "/metrics").status == 200
    assert world.call("POST", "/metrics").headers["Allow"] == "GET, HEAD"


# --------------------------------------------------------------------------------------------- what it says


def test_the_policy_and_the_store(world: World) -> None:
    assert value(world, "firewall_build_info", version=__version__) == 1
    assert value(world, "firewall_policy_revision") == world.core.revision
    world.good("PUT", "/v1/external-peers/lb-1", {"addresses": ["192.0.2.1"]})
    kinds = {"hypervisor": 2, "droplet": 4, "port": 3, "tag": 2, "firewall": 0, "external_peer": 1}
    assert {k: value(world, "firewall_policy_objects", kind=k) for k in kinds} == kinds
    changes = value(world, "firewall_changes_total")
    assert changes == world.core.revision  # this process has made all of them
    world.good("PUT", "/v1/droplets/104", {"name": "new"})
    world.good("PUT", "/v1/droplets/104", {"name": "new"})
    assert value(world, "firewall_changes_total") == changes + 1
    assert value(world, "firewall_store_failures_total") == 0
    world.store.broken = True
    assert world.call("PUT", "/v1/droplets/105", {}).status == 503
    assert value(world, "firewall_store_failures_total") == 2  # the write, the look at what was kept
    with pytest.raises(StoreError):
        world.core.acting(Deed(keeps=True)).write(lambda draft: draft.drop(world.core.policy.droplets[104]))
    assert value(world, "firewall_store_failures_total") == 4


def test_hypervisors_by_state_and_those_out_of_step_by_name(world: World) -> None:
    def states() -> dict[str, float | None]:
        return {sync.value: value(world, "firewall_hypervisors", state=sync.value) for sync in Sync}

    assert states() == {"in_sync": 2, "syncing": 0, "failed": 0, "standby": 0, "unreachable": 0}
    assert scrape(world)["firewall_hypervisor_out_of_sync"].samples == []
    assert value(world, "firewall_flows") == 14
    assert value(world, "firewall_last_change_timestamp_seconds") == START.timestamp()
    world.switches[HV1].mode = "refuse"
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    world.core.disconnected(HV2, world.switches[HV2])
    assert states() == {"in_sync": 0, "syncing": 0, "failed": 1, "standby": 0, "unreachable": 1}
    assert value(world, "firewall_hypervisor_out_of_sync", dpid=HV1, state="failed") == 1
    assert value(world, "firewall_hypervisor_out_of_sync", dpid=HV2, state="unreachable") == 1
    assert value(world, "firewall_hypervisors_unconfirmed") == 1  # what the other has confirmed stays confirmed
    assert value(world, "firewall_refusals_total") == 1
    assert value(world, "firewall_hypervisors_unregistered") == 0
    stranger = world.switches[HV2]
    stranger.dpid = "00000000000000ab"
    stranger.connect()
    assert value(world, "firewall_hypervisors_unregistered") == 1


def test_a_switch_that_is_silent_is_unconfirmed_until_it_answers(world: World) -> None:
    switch = world.switches[HV1]
    switch.mode = "silent"
    world.good("PUT", "/v1/ports/p101/rules", {"inbound_rules": []})
    assert value(world, "firewall_hypervisors_unconfirmed") == 1
    switch.confirm()
    assert value(world, "firewall_hypervisors_unconfirmed") == 0


def test_requests_are_counted_by_route_and_no_text_of_a_caller_is_told(world: World) -> None:
    path = "/v2/tags/{name}"
    assert value(world, "firewall_http_requests_total", method="GET", route=path, status="404") is None
    for evil in ("evil", "evil%22%0A", "evil-2"):
        assert world.call("GET", f"/v2/tags/{evil}").status == 404
    assert world.call("GET", "/evil/path").status == 404
    assert world.call("EVIL", "/v2/tags/evil").status == 405
    assert value(world, "firewall_http_requests_total", method="GET", route=path, status="404") == 3
    assert value(world, "firewall_http_requests_total", method="GET", route="", status="404") == 1
    assert value(world, "firewall_http_requests_total", method="other", route="", status="405") == 1
    assert value(world, "firewall_http_request_duration_seconds_count", method="GET", route=path) == 3
    assert b"evil" not in world.call("GET", "/metrics").body.lower()


def test_failed_authentications_are_counted(world: World) -> None:
    assert value(world, "firewall_failed_authentications_total") == 0
    for token in ("wrong", None):
        assert world.call("GET", "/v1/ports", token=token).status == 401
    assert world.call("GET", "/v1/ports", token=TENANT).status == 403
    assert value(world, "firewall_failed_authentications_total") == 2
    assert value(world, "firewall_http_requests_total", method="GET", route="/v1/ports", status="401") == 2


def test_a_crash_is_counted_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.core, "ready", lambda: 1 / 0)
    assert world.call("GET", "/readyz").status == 500
    assert value(world, "firewall_http_requests_total", method="GET", route="/readyz", status="500") == 1


def test_two_controllers_of_one_process_do_not_mix(world: World) -> None:
    world.call("GET", "/v1/ports", token=None)
    assert value(World(), "firewall_failed_authentications_total") == 0
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("firewall")]


def test_a_request_goes_into_the_bucket_of_its_time(world: World) -> None:
    metrics = Metrics(world.core)
    for seconds in (0.003, 0.7, 61):
        metrics.observe("/v1/ports", "GET", 200, seconds)
    samples = parsed(metrics.page().decode())["firewall_http_request_duration_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert (buckets["0.005"], buckets["0.5"], buckets["1.0"], buckets["60.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)


# --------------------------------------------------------------------------------------------- totals


def test_totals_outlive_connections() -> None:
    """What a session counts from nought, each time that its switch connects, only ever grows here."""
    progress = Progress(0)
    first = SwitchReport(Sync.SYNCING, connected_since=START)
    progress.reported(HV1, first)
    mended = replace(first, sync=Sync.IN_SYNC, repaired_flows=3, last_repair_at=START)
    progress.reported(HV1, mended)
    progress.reported(HV1, replace(mended, repaired_flows=5, last_repair_at=START + timedelta(seconds=9)))
    progress.reported(HV1, replace(mended, repaired_flows=5, last_repair_at=START + timedelta(seconds=9), flows=8))
    assert progress.totals == Totals(connections=1, repairs=2, repaired_flows=5)
    progress.reported(HV1, SwitchReport())
    again = START + timedelta(minutes=1)
    progress.reported(HV1, replace(mended, connected_since=again, repaired_flows=4, last_repair_at=again))
    assert progress.totals == Totals(connections=2, repairs=3, repaired_flows=9)
    # One that took the place of another, which never went.
    later = again + timedelta(minutes=1)
    progress.reported(HV1, replace(mended, connected_since=later, repaired_flows=2, last_repair_at=later))
    assert progress.totals == Totals(connections=3, repairs=4, repaired_flows=11)


def test_a_refusal_counts_once_for_each_revision() -> None:
    progress = Progress(0)
    refused = SwitchReport(Sync.FAILED, failed=7, connected_since=START)
    for report in (refused, replace(refused, flows=3), replace(refused, failed=8)):
        progress.reported(HV1, report)
    assert progress.totals.refusals == 2
    progress.reported(HV1, SwitchReport(failed=8))
    assert progress.totals.refusals == 2


# --------------------------------------------------------------------------------------------- the manual


def test_the_manual_has_every_metric_in_the_words_of_its_help(world: World) -> None:
    families = scrape(world)
    rows = dict(re.findall(r"^\| `((?:firewall|process)_\w+)`[^|]*\| (.*) \|$", MANUAL.read_text(), re.MULTILINE))
    ours = {name: family.documentation for name, family in families.items() if name.startswith("firewall_")}
    assert {name: text for name, text in rows.items() if name.startswith("firewall_")} == ours


def test_alerts_name_metrics_that_there_are(world: World) -> None:
    families = scrape(world)
    named = re.findall(r"expr: .*?(firewall_\w+)", MANUAL.read_text())
    assert len(named) >= 3
    assert set(named) <= families.keys()


# --------------------------------------------------------------------------------------------- the program


@pytest.mark.process
def test_the_program_tells_its_connections_and_its_process(tmp_path: Path) -> None:
    with Controller(tmp_path, settings={"metrics": "open"}) as controller:
        controller.rest.token = ""
        answer = controller.rest.call("GET", "/metrics")
    found = parsed(answer.json)
    assert found["firewall_http_connections"].samples[0].value == 1
    assert found["process_open_fds"].samples[0].value > 3
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20


def test_when_certificates_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "EXPIRES", {"ctl_cert": START + timedelta(days=1)})
    expected = (START + timedelta(days=1)).timestamp()
    assert value(world, "firewall_certificate_expiry_timestamp_seconds", option="ctl_cert") == expected
