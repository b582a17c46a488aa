"""`GET /metrics`: how the controller and its switches do, in Prometheus' text format.

Gauges are computed when they are asked for, from what the core knows; only what happens to HTTP requests is counted
here.  Labels hold names of ours alone, never a caller's text.  A hypervisor has a line of its own only while it is out
of step, so that a fleet in order costs a few hundred lines however large it is.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from webob import Response

from .. import __version__, tls
from ..progress import Sync
from ..service.access import Role
from ..service.core import Core
from ..settings import Settings
from .errors import Forbidden
from .routes import Call, Route

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# To 60 s, as long as a client may wait for switches.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
UNAUTHENTICATED = 401

# The format has no place for when a series began but further series.
disable_created_metrics()


class Metrics:
    """What one controller process tells of itself."""

    def __init__(self, core: Core) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "firewall_http_requests",
            "HTTP requests answered, by route (empty: no such path) and status.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "firewall_http_request_duration_seconds",
            "Time from a request's head to its answer, waiting for switches (Prefer: wait) included.",
            ("method", "route"),
            buckets=SECONDS,
            registry=registry,
        )
        self._strangers = Counter(
            "firewall_failed_authentications",
            "HTTP requests refused for want of a valid token.",
            registry=registry,
        )
        self._connections = Gauge("firewall_http_connections", "HTTP connections open now.", registry=registry)
        # Finding a series by its labels costs more than counting.
        self._answered = cache(lambda method, route, status: self._requests.labels(method, route, str(status)))
        self._took = cache(self._seconds.labels)
        registry.register(_State(core))
        ProcessCollector(registry=registry)

    def watch(self, connections: Callable[[], int]) -> None:
        """How many HTTP connections are open is the listener's to say."""
        self._connections.set_function(connections)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered.  `route`: its path as declared (`/v2/tags/{name}`), empty when there is none."""
        known = method if method in METHODS else "other"
        self._answered(known, route, status).inc()
        self._took(known, route).observe(seconds)
        if status == UNAUTHENTICATED:
            self._strangers.inc()

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def routes(self, settings: Settings) -> tuple[Route, ...]:
        """Where the page is, by the setting `metrics`."""
        if settings.metrics == "off":
            return ()
        return (Route("GET", "/metrics", self._get, 200, open=settings.metrics == "open"),)

    def _get(self, call: Call) -> object:
        if call.caller is not None and (call.caller.role is Role.TENANT or call.caller.account is not None):
            raise Forbidden("this token is for /v2 alone")
        # In the loop: counting is, too, and its locks are those of green threads.
        return Response(body=self.page(), headerlist=[("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])


class _State(Collector):
    """What the core knows at the moment."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("firewall_build", "The version that runs; always 1.", {"version": __version__})
        yield from self._policy()
        yield from self._hypervisors()
        expires = GaugeMetricFamily(
            "firewall_certificate_expiry_timestamp_seconds",
            "When what an option names expires: a certificate, the first of the authorities or of their lists of "
            "revoked certificates. Unix time.",
            labels=("option",),
        )
        for option, moment in tls.EXPIRES.items():
            expires.add_metric((option,), moment.timestamp())
        yield expires

    def _policy(self) -> Iterator[Metric]:
        core, totals = self._core, self._core.progress.totals
        yield GaugeMetricFamily(
            "firewall_active", "1 when this controller has the lease, 0 when it stands by.", core.token is not None
        )
        yield GaugeMetricFamily(
            "firewall_lease_token",
            "The token of the lease, 0 on a standby; each holder has a higher one.",
            core.token or 0,
        )
        yield GaugeMetricFamily(
            "firewall_policy_revision", "Revision of the policy in force; one more with each change.", core.revision
        )
        objects = GaugeMetricFamily(
            "firewall_policy_objects",
            "What the policy holds, by kind: hypervisor, droplet, port, tag, firewall, external_peer.",
            labels=("kind",),
        )
        for kind in ("hypervisors", "droplets", "ports", "tags", "firewalls", "external_peers"):
            objects.add_metric((kind.removesuffix("s"),), len(getattr(core.policy, kind)))
        yield objects
        yield CounterMetricFamily("firewall_changes", "Changes of the policy that were committed.", totals.changes)
        yield CounterMetricFamily(
            "firewall_store_failures", "Times that the store failed, writes and health checks.", core.store_failures
        )

    def _hypervisors(self) -> Iterator[Metric]:
        policy, progress = self._core.policy, self._core.progress
        reports = {dpid: progress.report(dpid) for dpid in policy.hypervisors}
        states = Tally(report.sync for report in reports.values())
        by_state = GaugeMetricFamily(
            "firewall_hypervisors", "Registered hypervisors, by how they stand to the policy.", labels=("state",)
        )
        out = GaugeMetricFamily(
            "firewall_hypervisor_out_of_sync",
            "1 for each registered hypervisor that is neither in_sync nor standby, with its state.",
            labels=("dpid", "state"),
        )
        for sync in Sync:
            by_state.add_metric((sync.value,), states[sync])
        for dpid, report in reports.items():
            if report.sync not in (Sync.IN_SYNC, Sync.STANDBY):
                out.add_metric((dpid, report.sync.value), 1)
        yield by_state
        yield out
        yield GaugeMetricFamily(
            "firewall_hypervisors_unconfirmed",
            "Registered hypervisors that have not confirmed the newest change that concerns them.",
            sum(not progress.confirmed(dpid) for dpid in reports),
        )
        every = progress.reports
        yield GaugeMetricFamily(
            "firewall_foreign_flows",
            "Flows of others in tables of the firewall, on all hypervisors.",
            sum(report.foreign_flows for report in every.values()),
        )
        yield GaugeMetricFamily(
            "firewall_hypervisors_fenced",
            "Hypervisors that hold a policy which the store does not descend from, and are left as they are.",
            sum(report.fence is not None for report in every.values()),
        )
        yield GaugeMetricFamily(
            "firewall_hypervisors_unregistered",
            "Hypervisors that are connected and that nobody registered.",
            sum(report.connected for dpid, report in every.items() if dpid not in reports),
        )
        yield GaugeMetricFamily(
            "firewall_flows",
            "Flows that hypervisors held when they last confirmed.",
            sum(r.flows for r in every.values()),
        )
        yield _moment(
            "firewall_last_change",
            "When a hypervisor last confirmed a change.",
            (r.last_change_at for r in every.values()),
        )
        yield _moment(
            "firewall_last_repair", "When a hypervisor was last repaired.", (r.last_repair_at for r in every.values())
        )
        totals = progress.totals
        for name, text, count in (
            ("hypervisor_connections", "Times that a hypervisor connected.", totals.connections),
            ("refusals", "Times that a hypervisor refused what it should hold.", totals.refusals),
            ("repairs", "Times that a hypervisor was found to differ from what it had confirmed.", totals.repairs),
            ("repaired_flows", "Flows that were put right by repairs.", totals.repaired_flows),
        ):
            yield CounterMetricFamily(f"firewall_{name}", text, count)


def _moment(name: str, text: str, moments: Iterable[datetime | None]) -> Metric:
    """The latest of some moments as Unix time; 0 when there was none."""
    latest = max((moment.timestamp() for moment in moments if moment is not None), default=0)
    return GaugeMetricFamily(f"{name}_timestamp_seconds", f"{text} Unix time, 0: not yet.", latest)
