"""The Ryu application: starts everything, passes Ryu's events on, decides nothing.

    ryu-manager --config-file FILE firewall_app.app

`[DEFAULT]` of FILE holds Ryu's own options (ofp_tcp_listen_port, wsapi_host, wsapi_port, ...), `[firewall]` ours
(`settings.py`).
"""

from __future__ import annotations

from . import process  # first: what is imported below logs while it is imported

# isort: split

import os
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import eventlet
from eventlet import tpool
from eventlet.event import Event as GreenEvent
from eventlet.semaphore import Semaphore
from oslo_config.cfg import Error as ConfigError
from ryu import cfg
from ryu.base.app_manager import RyuApp
from ryu.controller import ofp_event
from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from ryu.ofproto import ofproto_v1_3, ofproto_v1_4

from . import __version__, logs, memory
from .api.app import make_application
from .api.metrics import Metrics
from .api.server import serve
from .openflow import compat, wire
from .openflow.identity import Identity
from .openflow.link import Link
from .openflow.listener import LISTENERS, TOLD, uses_tls
from .pipeline.compile import Rulings
from .policy.errors import StoreError
from .progress import Sync
from .records import Entry, Outcome, Token
from .service import standby, tokens
from .service.access import Access, Caller, Role, digest
from .service.core import Core, FlowStats, Limits, Lock
from .service.writing import Event
from .settings import FORGET, Settings, read
from .store import Lease, Store
from .tls import CertificateError

LOG = logs.get("firewall")
_warn_once = cache(LOG.warning)
T = TypeVar("T")
# Threads share one interpreter: more work at a time would be no faster, and keep the loop and the store from it.
SLOW_WORKS = 2
FOLLOW_SECONDS = 1  # between two looks at the store
# To the end, of the time that `process.END_SECONDS` gives: for requests under way; for those that wait for a switch,
# once switches are disconnected; for the store.
REQUEST_SECONDS, FREED_SECONDS, STORE_SECONDS = 1.5, 1.5, 1.0

compat.install()


class _Event:
    """`service.core.Event` for green threads."""

    def __init__(self) -> None:
        self._event = GreenEvent()

    def set(self) -> None:
        if not self._event.ready():
            self._event.send(True)

    def wait(self, timeout: float) -> bool:
        with eventlet.Timeout(timeout, False):
            return bool(self._event.wait())
        return False

    def give_up(self) -> None:
        """Whoever waits is told that it has not come to pass."""
        if not self._event.ready():
            self._event.send(False)


class _Runtime:
    """`service.core.Runtime` on eventlet: slow work goes to a native thread, the loop goes on.

    Of eventlet's 20 threads slow work takes `SLOW_WORKS`, comparing with switches two (link.py), the store one.
    """

    def __init__(self) -> None:
        self._slow = Semaphore(SLOW_WORKS)
        self._events: WeakSet[_Event] = WeakSet()
        self._ending = False

    def lock(self) -> Lock:
        lock: Lock = Semaphore()
        return lock

    def slow(self, work: Callable[[], T]) -> T:
        with self._slow:
            return self.aside(work)

    def aside(self, work: Callable[[], T]) -> T:
        done: T = tpool.execute(work)
        return done

    def pause(self) -> None:
        for _ in range(2):  # a link decides what to send, Ryu's thread of the switch sends it
            eventlet.sleep(0)

    def event(self) -> Event:
        event = _Event()
        self._events.add(event)
        if self._ending:
            event.give_up()
        return event

    def certain(self) -> Event:
        return _Event()

    def end_waits(self) -> None:
        """Nobody waits for switches any longer."""
        self._ending = True
        for event in list(self._events):
            event.give_up()

    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0)


class FirewallApp(RyuApp):  # type: ignore[misc, unused-ignore]
    OFP_VERSIONS = (ofproto_v1_3.OFP_VERSION, ofproto_v1_4.OFP_VERSION)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runtime = _Runtime()
        try:
            self.settings = settings = read(cfg.CONF)
            self._tls = uses_tls(cfg.CONF)
            self._lease = lease = Lease(settings.database, _address(settings))
            self._store = store = Store.leased(settings.database, lease, _wait)
            token = lease.take()
            if store.is_new:
                LOG.warning("there was no store: a new, empty one was made", store=store.name)
            policy, history = store.load()
            access = _access(store, settings, first=token is not None)
            memory.keep_what_there_is()
        except (StoreError, ConfigError, CertificateError) as error:
            raise SystemExit(f"firewall: {error}") from None
        self.core = Core(
            policy,
            history,
            store,
            self._runtime,
            Rulings(settings.uplinks, settings.closed, settings.track_open, settings.fragments),
            Limits(
                settings.max_droplets,
                settings.max_tags,
                settings.max_rules,
                settings.max_entries,
                settings.max_firewalls,
                settings.max_account_firewalls,
                settings.max_account_tags,
            ),
            token,
        )
        self.core.active = "" if token is not None else lease.url
        self._following = Semaphore()
        self._access = access
        self._metrics = Metrics(self.core)
        self._application = make_application(self.core, access, settings, self._metrics)
        self._server: Any = None
        LOG.info(
            "cloud firewall",
            version=__version__, revision=history.revision, store=store.name,
            role="active" if token is not None else "standby", active=lease.url if token is None else None,
        )  # fmt: skip

    def start(self) -> Any:
        host, port = cfg.CONF.wsapi_host, cfg.CONF.wsapi_port
        try:
            self._server = serve(self._application, host or "127.0.0.1", port, self.settings)
        except OSError as error:
            raise SystemExit(f"firewall: cannot listen for HTTP on {host} port {port}: {error}") from None
        except CertificateError as error:
            raise SystemExit(f"firewall: {error}") from None
        eventlet.spawn_n(self._follow_store)
        self._metrics.watch(lambda: self._server.connections)
        scheme = "https" if self.settings.tls_certificate else "http"
        LOG.info("listening for requests", url=f"{scheme}://{host or '127.0.0.1'}:{self._server.port}")
        eventlet.spawn_n(self._tell_systemd)
        eventlet.spawn_n(process.End(self._end_requests, self._end_switches, self._end_store).wait)
        return super().start()

    def _tell_systemd(self) -> None:
        while not LISTENERS:
            eventlet.sleep(0.05)
        process.tell_systemd(self._status)

    def _status(self) -> str:
        """The line of `systemctl status`."""
        core = self.core
        reports = [report for dpid in core.policy.hypervisors if (report := core.progress.reports.get(dpid))]
        connected = sum(report.connected for report in reports)
        in_sync = sum(report.connected and report.sync is Sync.IN_SYNC for report in reports)
        return (
            f"{connected} of {len(core.policy.hypervisors)} hypervisors connected, {in_sync} in sync; "
            f"policy revision {core.revision}"
        )

    # ---- the end: what was acknowledged is kept, switches keep what they have

    def _end_requests(self) -> None:
        """New ones are refused; those that wait for switches are answered with what is known."""
        for listener in LISTENERS:
            listener.close()
        self._server.refuse()
        self._runtime.end_waits()
        self._server.drain(REQUEST_SECONDS)

    def _end_switches(self) -> None:
        """A bundle that has no commit yet is dropped by its switch, and the next controller sends it anew."""
        self.core.disconnect()
        left = self._server.drain(FREED_SECONDS)
        if left:
            LOG.warning("requests are cut off without an answer", requests=left)

    def _end_store(self) -> None:
        """The last connection that is closed has SQLite put its log into the database: a copy of that is whole."""
        with eventlet.Timeout(STORE_SECONDS, False):
            self._following.acquire()  # for good
            self.core.stored(self._store.close)
            self._runtime.aside(self._lease.close)
            return
        LOG.warning("the store does not answer; it is left as it is")

    def _follow_store(self) -> None:
        """Whether the lease is ours; what others do to the store: commands, another controller, a restored backup; and
        what it owes.
        """
        seen: object = None
        while True:
            try:
                with self._following:
                    standby.look(self.core, self._lease)
                    self.core.follow()
                    tokens.settle(self.core, self._access)
                    mark = self.core.stored(self.core.store.tokens_mark)
                    if mark != seen:
                        with self.core.alone():
                            self._access.keep(self.core.stored(self.core.store.tokens))
                    seen = mark
            except StoreError:
                pass  # /readyz and every write say so
            except Exception:
                LOG.exception("the store cannot be followed")
            eventlet.sleep(FOLLOW_SECONDS)

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
        super().close()

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def state_changed(self, event: Any) -> None:
        datapath = event.datapath
        if event.state == DEAD_DISPATCHER:
            link = getattr(datapath, "firewall_link", None)
            if link is not None:
                link.close()
            return
        if not datapath.is_active:
            return  # it went before we came to it
        dpid, host = f"{datapath.id:016x}", datapath.address[0]
        refused = self._refused(dpid, datapath.socket.identity)
        if refused is not None:
            self.core.refused(dpid, host, refused)
            if TOLD.news(host, dpid, refused):
                LOG.warning("hypervisor refused", dpid=dpid, address=host, error=refused)
            # Not here: closing tells Ryu's event queue, which this thread empties.
            eventlet.spawn_n(datapath.close)
            return
        datapath.socket.known()
        link = Link(
            self.core, datapath, _flow_stats,
            reply_timeout=self.settings.reply_timeout, audit_interval=self.settings.audit_interval,
            pickup_grace=self.settings.pickup_grace, forget_cached=FORGET[self.settings.forget_cached],
        )  # fmt: skip
        datapath.firewall_link = link
        eventlet.spawn_n(link.run)

    def _refused(self, dpid: str, identity: Identity | None) -> str | None:
        """Why a switch may not stay, or None."""
        if self._tls and (identity is None or dpid not in identity.datapaths):
            return f"its certificate is that of {identity}, and does not name this datapath id"
        enrols = self.settings.enrol == "yes" or (self.settings.enrol == "auto" and not self._tls)
        if not enrols and dpid not in self.core.policy.hypervisors:
            return f"it is not registered: PUT /v1/hypervisors/{dpid} lets it in"
        return None


def _flow_stats(raw: wire.RawFlow) -> FlowStats:
    try:
        flow = wire.decode_flow(raw)
        return FlowStats(flow, flow.text, raw.packets, raw.byte_count)
    except wire.DecodeError as error:
        text = f"cookie={raw.cookie:#x},table={raw.table},priority={raw.priority} ({error})"
        return FlowStats(None, text, raw.packets, raw.byte_count)


def _access(store: Store, settings: Settings, first: bool) -> Access:
    """The tokens in force; with `first` makes one when there is none, and says where it is."""
    access = Access(store.tokens())
    given = os.environ.get("FIREWALL_OPERATOR_TOKEN")
    if given:
        access.grant(given, Caller(Role.OPERATOR, note="FIREWALL_OPERATOR_TOKEN"))
    if first and not len(access):
        secret, path = secrets.token_urlsafe(32), _token_file(settings)
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secret + "\n")
            path.chmod(0o600)
        except OSError as error:
            raise SystemExit(f"firewall: cannot write a first operator's token to {path}: {error}") from None
        now = datetime.now(UTC)
        token = Token(secrets.token_hex(8), digest(secret), Role.OPERATOR.value, None, "first", now)
        made = tokens.change(None, token)
        entry = Entry(now, "", "", "the first start", "", None, "", "", str(path), Outcome.DONE, changes=(made,))
        store.add_token(token, entry)
        access.keep(store.tokens())
        LOG.info("a first operator's token was made", file=path)
    return access


def _wait(why: str) -> None:
    _warn_once(f"waiting: {why}")
    eventlet.sleep(FOLLOW_SECONDS)


def _address(settings: Settings) -> str:
    """Where others find our REST API."""
    if settings.advertise:
        return settings.advertise
    host = cfg.CONF.wsapi_host or "127.0.0.1"
    if host.startswith("/"):
        return f"unix:{host} on {socket.gethostname()}"
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        host = socket.gethostname()
    scheme = "https" if settings.tls_certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{cfg.CONF.wsapi_port}"


def _token_file(settings: Settings) -> Path:
    if settings.token_file:
        return Path(settings.token_file)
    prefix = "sqlite:///"
    if settings.database.startswith(prefix):
        return Path(settings.database.removeprefix(prefix)).with_suffix(".token")
    return Path("firewall.token")
