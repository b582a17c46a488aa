"""The listener of switches in one process: who keeps a place, what a broken connection is to Ryu, whom one believes."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import eventlet
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from eventlet.green import ssl
from oslo_config import cfg

from firewall_app import tls
from firewall_app.certificates import Pair, make, new_authority
from firewall_app.openflow import listener
from firewall_app.openflow.identity import Identity
from firewall_app.openflow.listener import Connection, Lines, Listener, Strangers, Told, uses_tls
from firewall_app.tls import OPENFLOW, Certificate, CertificateError

NOW = datetime.now(UTC).replace(microsecond=0)
HV1, HV2 = "0000000000000001", "00000000000000ab"
LOCAL = x509.DNSName("localhost")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    make(directory, [LOCAL], 30, False, NOW, [[HV1], [HV2]])
    return directory


def options(pki: Path) -> dict[str, str]:
    """As Ryu hands them over."""
    names = {"keyfile": "controller.key", "certfile": "controller.crt", "ca_certs": "switchca.crt"}
    return {option: str(pki / name) for option, name in names.items()}


Serve = Callable[..., Listener]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes listeners that run, and ends them."""
    threads = []

    def made(handle: Callable[[Connection], None], **tls: str) -> Listener:
        one = Listener(("127.0.0.1", 0), lambda connection, _: handle(connection), fail=pytest.fail, **tls)
        threads.append(eventlet.spawn(one.serve_forever))
        return one

    yield made
    for thread in threads:
        thread.kill()


Connect = Callable[..., Any]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects to a listener, over TLS if told how, and closes what it made."""
    clients: list[Any] = []

    def made(one: Listener, context: ssl.SSLContext | None = None) -> Any:
        client = eventlet.connect(one.address)
        clients.append(context.wrap_socket(client) if context else client)
        return clients[-1]

    yield made
    for client in clients:
        client.close()


def as_switch(pki: Path, name: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(pki / "ca.crt")
    made.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    return made


def ended(client: Any) -> bool:
    """Waits until the other side ends the connection."""
    with eventlet.Timeout(30):
        try:
            while client.recv(4096):
                pass
        except OSError:
            pass
    return True


def until(condition: Callable[[], object]) -> None:
    with eventlet.Timeout(30):
        while not condition():
            eventlet.sleep(0.01)


# --------------------------------------------------------------------------------------------- strangers


class Guest:
    def __init__(self, host: str, since: float) -> None:
        self.host, self.since = host, since


def test_a_stranger_has_a_place_for_ten_seconds() -> None:
    strangers = Strangers()
    early, late = Guest("192.0.2.1", 0.0), Guest("192.0.2.1", 5.0)
    for guest in (early, late):
        strangers.enter(guest)
    assert strangers.overdue(listener.IDENTIFY - 0.1) == []
    assert strangers.overdue(listener.IDENTIFY) == [early]
    strangers.leave(early)
    assert strangers.overdue(listener.IDENTIFY + 5) == [late]


def test_when_there_is_no_room_the_address_with_the_most_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STRANGERS", 4)
    strangers = Strangers()
    guests = [Guest(host, 1.0 * n) for n, host in enumerate(["10.0.0.1", "fd00::1", "fd00::2:3", "10.0.0.2"])]
    for guest in guests[:3]:
        strangers.enter(guest)
    assert not strangers.full
    assert strangers.overdue(9.0) == []
    strangers.enter(guests[3])
    assert strangers.full
    assert strangers.overdue(1.0 + listener.PATIENCE - 0.1) == []  # honest ones in a storm are done sooner
    assert strangers.overdue(1.0 + listener.PATIENCE) == [guests[1]]  # the oldest of a /64 that has two
    strangers.leave(guests[1])
    strangers.leave(guests[1])
    assert not strangers.full


def test_addresses_of_ipv4_are_told_apart_on_a_socket_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STRANGERS", 3)
    strangers = Strangers()
    guests = [Guest(host, 0.0) for host in ("::ffff:192.0.2.1", "::ffff:192.0.2.2", "::ffff:192.0.2.2")]
    for guest in guests:
        strangers.enter(guest)
    assert strangers.overdue(listener.PATIENCE) == [guests[1]]
    assert Strangers().overdue(1e9) == []
    link_local = Guest("fe80::1%eth0", 0.0)
    strangers.enter(link_local)
    strangers.leave(link_local)


def test_connections_that_say_nothing_end_and_those_that_are_known_stay(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "IDENTIFY", 0.3)
    monkeypatch.setattr(listener, "LOOK", 0.05)
    monkeypatch.setattr(listener, "TOLD", Told())
    ending = []

    def handle(connection: Connection) -> None:
        connection.settimeout(None)
        if connection.recv(1) == b"k":
            connection.known()
            connection.sendall(b"!")
            connection.recv(1)
        ending.append(connection)

    one = serve(handle)
    known = connect(one)
    known.sendall(b"k")
    assert known.recv(1) == b"!"
    silent = [connect(one) for _ in range(5)]
    assert all(ended(client) for client in silent)
    until(lambda: len(ending) == 5)
    assert one.count == 1
    assert caplog.text.count("did not say which switch it is: disconnected address=127.0.0.1") == 1
    known.sendall(b"x")
    assert ended(known)
    until(lambda: one.count == 0)


def test_a_crowd_that_says_nothing_keeps_nobody_out(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "STRANGERS", 10)
    monkeypatch.setattr(listener, "PATIENCE", 0.05)
    most = []

    def handle(connection: Connection) -> None:
        most.append(one.count)
        if connection.recv(1) == b"k":
            connection.known()
            connection.sendall(b"!")

    one = serve(handle)
    crowd = [connect(one) for _ in range(25)]
    honest = connect(one)
    honest.sendall(b"k")
    with eventlet.Timeout(30):
        assert honest.recv(1) == b"!"
    assert len(most) == 26
    assert max(most) <= 11
    assert len(crowd) == 25


def test_those_that_come_at_once_are_accepted_some_together_and_hold_up_nobody(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "TOGETHER", 8)
    accepted: list[Connection] = []
    one = serve(accepted.append)
    clients = [socket.create_connection(one.address) for _ in range(40)]  # they wait: nobody else has had a turn
    turns = 0
    with eventlet.Timeout(30):
        while len(accepted) < len(clients):
            eventlet.sleep(0)
            turns += 1
    for client in clients:
        client.close()
    assert 5 <= turns < 10, "a turn for each of them keeps the last waiting; none would keep everybody else"


def test_the_same_is_said_once_and_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    told = Told(hosts=2)
    assert [told.news("a", "x"), told.news("a", "x"), told.news("a", "y")] == [True, False, True]
    clock = listener.AGAIN
    assert [told.news("a", "x"), told.news("a", "x")] == [True, False]
    assert told.news("b", "x")
    assert told.news("c", "x")  # of three hosts the one that was heard of longest ago is forgotten
    assert told.news("a", "x")


def test_a_host_that_makes_up_reasons_is_told_of_so_often_and_pushes_out_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    told = Told(each=3)
    assert told.news("192.0.2.1", "x")
    assert sum(told.news("fd00::1", str(number)) for number in range(1000)) == 3
    assert not told.news("fd00::2", "of the same /64")
    assert not told.news("192.0.2.1", "x")
    assert caplog.text.count("too much is to be said of this address") == 1
    clock = listener.AGAIN
    assert told.news("fd00::1", "7")


def test_a_host_has_so_many_lines_of_each_level_in_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    lines = Lines(most=3, hosts=4)
    assert [lines.room("fd00::1", logging.INFO) for _ in range(5)] == [True] * 3 + [False] * 2
    assert lines.room("fd00::1", logging.ERROR)
    assert not lines.room("fd00::2", logging.INFO)
    assert lines.room("192.0.2.1", logging.INFO)
    clock = listener.MINUTE - 0.1
    assert not lines.room("fd00::1", logging.INFO)
    assert caplog.text.count("too many lines because of this address") == 1
    clock = listener.MINUTE
    assert lines.room("fd00::1", logging.INFO)
    for number in range(10):
        assert lines.room(f"192.0.2.{number}", logging.INFO)


# --------------------------------------------------------------------------------------------- TLS


def test_what_is_broken_in_tls_ends_a_connection_and_is_no_timeout(serve: Serve, connect: Connect, pki: Path) -> None:
    """Ryu reads on after an SSLError, at once and for ever."""
    errors: list[Exception] = []

    def handle(connection: Connection) -> None:
        served.append(connection)
        connection.settimeout(30)
        connection.sendall(b"!")
        try:
            connection.recv(8)
        except OSError as error:
            errors.append(error)

    served: list[Connection] = []
    one = serve(handle, **options(pki))
    client = connect(one, as_switch(pki, HV1))
    assert client.recv(1) == b"!"
    socket.socket.send(client, b"\x17\x03\x03\x00\x20" + b"\xff" * 32)
    until(lambda: errors)
    assert not isinstance(errors[0], ssl.SSLError | TimeoutError)
    assert (served[0].ended or "").startswith("the connection broke: ")


@pytest.mark.parametrize("tls", [False, True])
def test_sending_has_a_time_limit_and_waiting_to_be_told_something_has_none(
    serve: Serve, connect: Connect, pki: Path, tls: bool
) -> None:
    heard: list[bytes] = []
    served: list[Connection] = []

    def handle(connection: Connection) -> None:
        connection.settimeout(0.05)
        heard.append(connection.recv(8))
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(64 << 20))
        served.append(connection)

    one = serve(handle, **(options(pki) if tls else {}))
    client = connect(one, as_switch(pki, HV1)) if tls else connect(one)
    eventlet.sleep(0.15)
    client.sendall(b"all of it")
    until(lambda: served)
    assert heard == [b"all of it"], "more than it was asked for"
    assert (served[0].ended or "").startswith("the connection broke: ")


def test_what_is_shut_down_is_never_read_as_plain_text(serve: Serve, connect: Connect, pki: Path) -> None:
    """Python's ssl goes on without encryption: whoever is on the path could speak for the switch."""
    read: list[bytes] = []
    go = eventlet.Event()

    def handle(connection: Connection) -> None:
        connection.settimeout(30)
        connection.shutdown(socket.SHUT_WR)
        go.wait()
        try:
            read.append(connection.recv(100))
        except OSError:
            read.append(b"")

    one = serve(handle, **options(pki))
    client = connect(one, as_switch(pki, HV1))
    client.sendall(b"encrypted")
    assert ended(client)
    try:
        socket.socket.send(client, b"plain text")
    except OSError:
        pass
    go.send()
    until(lambda: read)
    assert read[0] in (b"", b"encrypted")  # and no bytes as they are on the wire


def test_a_revoked_certificate_ends_its_connections_and_no_others(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "LOOK", 0.05)
    monkeypatch.setattr(listener, "TOLD", Told())
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1], [HV2]])

    def handle(connection: Connection) -> None:
        connection.known()
        connection.settimeout(30)
        served.append(connection)
        while data := connection.recv(8):
            connection.sendall(data)

    served: list[Connection] = []
    one = serve(handle, **options(tmp_path))
    clients = {name: connect(one, as_switch(tmp_path, name)) for name in (HV1, HV2)}
    for client in clients.values():
        client.sendall(b"1")
        assert client.recv(1) == b"1"
    authority = files(tmp_path, "switchca")
    revoke(tmp_path / "switchca.crt", authority, files(tmp_path, HV1).certificate)
    assert ended(clients[HV1])
    clients[HV2].sendall(b"2")
    assert clients[HV2].recv(1) == b"2"
    again = connect(one, as_switch(tmp_path, HV1))
    assert ended(again)
    assert [each.ended for each in served] == ["its certificate was revoked", None]
    assert f"a certificate was revoked: disconnected address=127.0.0.1 certificate={HV1}" in caplog.text
    assert 'TLS handshake failed address=127.0.0.1 error="certificate revoked"' in caplog.text
    other = connect(one, as_switch(tmp_path, HV2))
    other.sendall(b"3")
    assert other.recv(1) == b"3"


def files(directory: Path, name: str) -> Pair:
    from firewall_app.certificates import Files

    return Files(directory / f"{name}.crt", directory / f"{name}.key").read()


def revoke(path: Path, authority: Pair, *certificates: x509.Certificate, days: int = 30) -> None:
    """Writes the authority with its list of revoked certificates, as an operator would join the two files."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(NOW - timedelta(days=40))
        .next_update(NOW + timedelta(days=days))
    )
    for certificate in certificates:
        gone = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(gone.build())
    crl = builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    beside = path.with_suffix(".new")
    beside.write_bytes(authority.certificate.public_bytes(Encoding.PEM) + crl)
    beside.replace(path)


def test_a_list_of_revoked_certificates_that_has_expired_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1]])
    paths = options(tmp_path)
    certificate = Certificate(paths["certfile"], paths["keyfile"], paths["ca_certs"], OPENFLOW)
    assert tls.EXPIRES["ctl_cert"] == files(tmp_path, "controller").certificate.not_valid_after_utc
    assert tls.EXPIRES["ca_certs"] == files(tmp_path, "switchca").certificate.not_valid_after_utc
    revoke(tmp_path / "switchca.crt", files(tmp_path, "switchca"), days=-1)
    assert certificate.context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert "list of revoked certificates has expired" in caplog.text
    assert tls.EXPIRES["ca_certs"] == NOW - timedelta(days=1)


@pytest.mark.parametrize(
    ("broken", "option"),
    [("controller.crt", "ctl_cert"), ("controller.key", "ctl_privkey"), ("switchca.crt", "ca_certs")],
)
@pytest.mark.parametrize("how", ["missing", "nonsense"])
def test_files_that_cannot_be_used_are_told_with_their_option(
    tmp_path: Path, broken: str, option: str, how: str
) -> None:
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1]])
    (tmp_path / broken).unlink()
    if how == "nonsense":
        (tmp_path / broken).write_text("nonsense")
    said: list[str] = []
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Ryu's way to end a thread
        Listener(("127.0.0.1", 0), lambda *_: None, fail=said.append, **options(tmp_path))
    assert len(said) == 1
    assert said[0].startswith(f"{option}: ")
    assert str(tmp_path / broken) in said[0]


def test_authorities_that_are_renewed_count_for_the_next_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1]])
    paths = options(tmp_path)
    certificate = Certificate(paths["certfile"], paths["keyfile"], paths["ca_certs"], OPENFLOW)
    first = certificate.context
    (tmp_path / "switchca.crt").write_bytes(new_authority(NOW).certificate.public_bytes(Encoding.PEM))
    second = certificate.context
    assert second is not first
    (tmp_path / "switchca.crt").write_text("nonsense")
    with caplog.at_level(logging.ERROR):
        assert [certificate.context for _ in range(3)] == [second] * 3
    assert caplog.text.count("ca_certs: ") == 1


# --------------------------------------------------------------------------------------------- who is who


def certificate(common: str | None, *dns: str, other: x509.GeneralName | None = None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common is not None else [])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, NOW, NOW + timedelta(days=1))
    names: list[x509.GeneralName] = [*map(x509.DNSName, dns), *([other] if other else [])]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("common", "dns", "ids"),
    [
        (HV1, (), {HV1}),  # older ovs-pki
        (HV1, (HV1,), {HV1}),  # ovs-pki -u
        (f"{HV1} id:0b2c", (f"{HV1} id:0b2c",), set()),  # ovs-pki without -u: names of nothing
        ("hv-1", (HV1, HV2.upper(), "hv-1.example.org"), {HV1, HV2}),
        (HV2, (HV1,), {HV1}),  # what the authority was asked for in the common name is not what it vouches for
        (HV1, ("hv-1.example.org",), set()),
        (None, (), set()),
        (f"{HV1}.example.org", (), set()),
        (HV1[1:], (f"*{HV1[1:]}", "*", f"0x{HV1}", f" {HV1}", f"{HV1}0"), set()),
        (f"{HV1}\n", (), set()),
        ("٠" * 16, (), set()),  # digits, and no hex digits
    ],
)
def test_the_datapath_ids_of_a_certificate(common: str | None, dns: tuple[str, ...], ids: set[str]) -> None:
    assert Identity.of(certificate(common, *dns)).datapaths == ids


def test_an_address_among_the_names_leaves_the_common_name_in_force() -> None:
    from ipaddress import ip_address

    found = Identity.of(certificate(HV1, other=x509.IPAddress(ip_address("192.0.2.1"))))
    assert (found.datapaths, str(found)) == ({HV1}, HV1)


def test_a_certificate_of_many_names_fits_a_line() -> None:
    many = Identity.of(certificate(HV1, HV1, *(f"{number}.example" for number in range(1200))))
    assert many.datapaths == {HV1}
    assert HV1 in str(many)
    assert len(str(many)) < 300


def test_what_the_command_makes_names_what_it_was_asked_for(tmp_path: Path) -> None:
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1, HV2]])
    made = files(tmp_path, HV1).certificate
    assert Identity.of(made.public_bytes(Encoding.DER)).datapaths == {HV1, HV2}
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


# --------------------------------------------------------------------------------------------- options


def conf(**values: object) -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    names = ("ctl_privkey", "ctl_cert", "ca_certs", "ofp_tcp_listen_port", "ofp_ssl_listen_port")
    made.register_opts([cfg.StrOpt(name) for name in names])
    made.register_opt(cfg.ListOpt("ofp_switch_address_list", default=[]))
    made([])
    for name, value in values.items():
        made.set_override(name, value)
    return made


FILES = {"ctl_privkey": "k", "ctl_cert": "c", "ca_certs": "a"}


def test_which_options_mean_tls(pki: Path) -> None:
    paths = options(pki)
    files = {"ctl_privkey": paths["keyfile"], "ctl_cert": paths["certfile"], "ca_certs": paths["ca_certs"]}
    assert uses_tls(conf(**files)) is True
    assert uses_tls(conf(**files, ofp_ssl_listen_port="6653")) is True
    with pytest.raises(CertificateError, match="ctl_cert: cannot read /no/such"):
        uses_tls(conf(**{**files, "ctl_cert": "/no/such"}))
    assert uses_tls(conf()) is False
    assert uses_tls(conf(ofp_tcp_listen_port="6653")) is False


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ctl_privkey": "k"}, "ctl_cert and ca_certs not set"),  # Ryu would speak plain TCP
        ({"ctl_privkey": "k", "ctl_cert": "c"}, "ca_certs not set"),  # and here let anybody in
        ({"ca_certs": "a"}, "ctl_privkey and ctl_cert not set"),
        ({**FILES, "ctl_cert": ""}, "ctl_cert not set"),
        ({"ofp_ssl_listen_port": "6653"}, "ctl_privkey, ctl_cert, ca_certs are not"),
        ({**FILES, "ofp_tcp_listen_port": "6653"}, "ofp_tcp_listen_port is set"),  # Ryu would not listen on it
        ({**FILES, "ofp_switch_address_list": ["192.0.2.1:6653"]}, "ofp_switch_address_list is set"),
    ],
)
def test_options_of_which_ryu_would_make_something_else(values: dict[str, object], words: str) -> None:
    with pytest.raises(cfg.Error, match=words):
        uses_tls(conf(**values))


def test_a_certificate_that_nobody_can_use_is_told_at_once(tmp_path: Path) -> None:
    make(tmp_path, [LOCAL], 30, False, NOW, [[HV1]])
    paths = options(tmp_path)
    (tmp_path / "switchca.crt").write_bytes((tmp_path / "switchca.key").read_bytes())
    with pytest.raises(CertificateError, match=r"ca_certs: .*switchca\.crt holds no certificate"):
        Certificate(paths["certfile"], paths["keyfile"], paths["ca_certs"], OPENFLOW)
