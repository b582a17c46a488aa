"""OpenFlow over TLS, the whole program and a real Open vSwitch: who gets in, as which datapath, and what is said."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from fakeswitch import V14, message
from ovs_dummy import DummyOvs

from firewall_app import certificates
from firewall_app.certificates import Files
from firewall_app.openflow.listener import IDENTIFY
from lab.controller import Controller
from lab.system import LabError, wait_until

pytestmark = [pytest.mark.ovs, pytest.mark.process]

HV = [f"{number:016x}" for number in range(16)]
BRIDGES = {"br1": 1, "br2": 2, "br3": 3}  # of one hypervisor, whose ovs-vswitchd has one certificate
NOW = datetime.now(UTC).replace(microsecond=0)
OURS = "cookie=0xd0f1"
OPENFLOW = message(0, 1, struct.pack("!HHI", 1, 8, 1 << V14))  # a HELLO


def tls_options(pki: Path) -> dict[str, object]:
    return {"ctl_privkey": pki / "controller.key", "ctl_cert": pki / "controller.crt", "ca_certs": pki / "switchca.crt"}


class Site:
    """A controller that speaks TLS, and a hypervisor with three bridges."""

    def __init__(self, directory: Path, controller: Controller, ovs: DummyOvs) -> None:
        self.pki, self.controller, self.ovs = directory / "pki", controller, ovs
        self.target = f"ssl:127.0.0.1:{controller.openflow_port}"

    def hypervisor(self, dpid: str) -> Any:
        return self.controller.call("GET", f"/v1/hypervisors/{dpid}").json

    def in_sync(self, dpid: str) -> bool:
        return self.hypervisor(dpid)["sync"]["state"] == "in_sync"

    def log(self) -> str:
        return self.controller.log.read_text()

    def context(self, name: str | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if name is not None:
            made.load_cert_chain(self.pki / f"{name}.crt", self.pki / f"{name}.key")
        return made

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.controller.openflow_port), timeout=20)

    def secure(self, name: str | None = None, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        return (context or self.context(name)).wrap_socket(self.connect(), server_hostname="localhost")

    def says(self, certificate: str, dpid: int) -> bool:
        """Connects as a switch of that name; whether the controller goes on with it."""
        with self.secure(certificate) as client:
            client.sendall(message(0, 1, struct.pack("!HHI", 1, 8, 1 << V14)))
            client.sendall(message(6, 1, struct.pack("!QIBBxxII", dpid, 0, 254, 0, 0x4F, 0)))
            client.sendall(message(19, 1, struct.pack("!HH4x", 13, 0)))
            return any(kind == 18 and body[:2] == b"\0\0" for kind, body in messages(client))  # asked for DESC


def messages(client: socket.socket) -> Iterator[tuple[int, bytes]]:
    data = b""
    try:
        while part := client.recv(65536):
            data += part
            while len(data) >= 8 and len(data) >= (length := int.from_bytes(data[2:4], "big")):
                yield data[1], data[8:length]
                data = data[length:]
    except OSError:
        return


def ended(client: socket.socket) -> None:
    """The other side ends the connection, and the answer is nothing of OpenFlow."""
    try:
        while data := client.recv(4096):
            assert data[0] not in range(7), data
    except TimeoutError:
        pytest.fail("the controller still listens")
    except OSError:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="fw-") as name:
        directory = Path(name)
        pki = directory / "pki"
        certificates.make(pki, [x509.DNSName("localhost")], 30, False, NOW, [HV[1:4], [HV[9]], [HV[10]]])
        with (
            Controller(directory, openflow_tls=tls_options(pki)) as controller,
            DummyOvs(directory / "ovs") as ovs,
        ):
            one = Site(directory, controller, ovs)
            ovs.vsctl("set-ssl", *(str(pki / file) for file in (f"{HV[1]}.key", f"{HV[1]}.crt", "ca.crt")))
            for bridge, number in BRIDGES.items():
                assert controller.call("PUT", f"/v1/hypervisors/{HV[number]}", {"name": bridge}).status == 201
                ovs.add_bridge(bridge, (f"{bridge}p1",), number)
                point_at(one, bridge)
            yield one


def point_at(site: Site, bridge: str, target: str = "") -> None:
    words = ("set-controller", bridge, target or site.target)
    site.ovs.vsctl(*words, "--", "set", "controller", bridge, "connection_mode=out-of-band", "max_backoff=1000")


# --------------------------------------------------------------------------------------------- who gets in


def test_every_bridge_connects_and_gets_its_pipeline_also_again(site: Site) -> None:
    for _ in range(2):
        for bridge, number in BRIDGES.items():
            wait_until(f"{bridge} in step", lambda dpid=HV[number]: site.in_sync(dpid))
            assert OURS in site.ovs.ofctl("-O", "OpenFlow14", "dump-flows", bridge)
        since = {bridge: site.hypervisor(HV[number])["connected_since"] for bridge, number in BRIDGES.items()}
        assert None not in since.values()
        for bridge in BRIDGES:
            site.ovs.vsctl("del-controller", bridge)
        for number in BRIDGES.values():
            wait_until("it is gone", lambda dpid=HV[number]: not site.hypervisor(dpid)["connected"])
        for bridge in BRIDGES:
            point_at(site, bridge)
    for number in BRIDGES.values():
        wait_until("in step", lambda dpid=HV[number]: site.in_sync(dpid))
    assert "Traceback" not in site.log()


def test_a_certificate_speaks_for_its_own_datapaths_alone(site: Site) -> None:
    """And the connection of the one that it would speak for goes on."""
    wait_until("in step", lambda: site.in_sync(HV[1]))
    before = site.hypervisor(HV[1])
    for _ in range(3):
        assert not site.says(HV[9], 1)
    assert site.hypervisor(HV[1]) == before
    said = f'hypervisor refused dpid={HV[1]} address=127.0.0.1 error="its certificate is that of {HV[9]}'
    assert site.log().count(said) == 1
    assert "connected again" not in site.log()


def test_a_bridge_that_takes_another_ones_datapath_id_is_refused(site: Site) -> None:
    site.ovs.add_bridge("br7", (), 7)
    point_at(site, "br7")
    wait_until("it is listed", lambda: site.controller.call("GET", f"/v1/hypervisors/{HV[7]}").status == 200)
    assert site.hypervisor(HV[7])["connected"] is False
    assert f"its certificate is that of {', '.join(HV[1:4])}" in site.hypervisor(HV[7])["sync"]["error"]
    assert OURS not in site.ovs.ofctl("-O", "OpenFlow14", "dump-flows", "br7")
    site.ovs.vsctl("del-br", "br7")


def test_who_is_not_registered_is_listed_and_let_in_once_it_is(site: Site) -> None:
    for _ in range(3):
        assert not site.says(HV[10], 10)
    listed = site.hypervisor(HV[10])
    assert (listed["registered"], listed["connected"]) == (False, False)
    assert f"it is not registered: PUT /v1/hypervisors/{HV[10]} lets it in" in listed["sync"]["error"]
    assert site.log().count(f"hypervisor refused dpid={HV[10]} address=127.0.0.1") == 1
    assert site.controller.call("PUT", f"/v1/hypervisors/{HV[10]}", {}).status == 201
    assert site.says(HV[10], 10)


def test_the_lines_that_the_command_prints_are_all_that_it_takes(site: Site, tmp_path: Path) -> None:
    """As they are, but for where files are and which port there is."""
    argv = ["--directory", str(site.pki), "--hypervisor", f"{HV[12]},{HV[13]}", "--name", "192.0.2.10"]
    with redirect_stdout(StringIO()) as told:
        assert certificates.main(argv) == 0
    printed = told.getvalue()
    for option, path in tls_options(site.pki).items():
        assert f"  {option} = {path}\n" in printed
    lines = [line.strip() for line in printed.splitlines() if line.startswith(("  chmod ", "  ovs-vsctl "))]
    script = "\n".join(lines).replace("/etc/openvswitch", str(tmp_path)).replace("192.0.2.10:6653", site.target[4:])
    for name in (f"{HV[12]}.key", f"{HV[12]}.crt", "ca.crt"):
        (tmp_path / name).write_bytes((site.pki / name).read_bytes())
    with tempfile.TemporaryDirectory(prefix="fw-") as directory, DummyOvs(Path(directory)) as ovs:
        for bridge in ("br0", "br1"):
            ovs.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=dummy")
        done = subprocess.run(["sh", "-ec", script], env=ovs.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for dpid in (HV[12], HV[13]):
            assert site.controller.call("PUT", f"/v1/hypervisors/{dpid}", {}).status == 201
            wait_until("in step", lambda dpid=dpid: site.in_sync(dpid))
        assert ovs.vsctl("get-fail-mode", "br1").strip() == "secure"


# --------------------------------------------------------------------------------------------- who does not


def made(site: Site, authority: str, usage: x509.ObjectIdentifier, begins: int, days: int) -> ssl.SSLContext:
    """A client whose certificate for datapath 1 is of some authority and time."""
    when = NOW + timedelta(days=begins)
    by = (
        certificates.new_authority(when)
        if authority == "a stranger"
        else Files(site.pki / f"{authority}.crt", site.pki / f"{authority}.key").read()
    )
    files = Files(site.pki / "made.crt", site.pki / "made.key")
    files.write(certificates.issue(by, usage, [x509.DNSName(HV[1])], when, days))
    return site.context("made")


def is_refused(site: Site, context: ssl.SSLContext) -> bool:
    """TLS 1.2 tells at once, 1.3 with the first reading."""
    try:
        with site.secure(context=context) as client:
            client.sendall(OPENFLOW)
            return not client.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


def stranger_to_us(site: Site) -> ssl.SSLContext:
    """A switch whose `ca.crt` is another's."""
    made = ssl.create_default_context(cafile=str(site.pki / "switchca.crt"))
    made.load_cert_chain(site.pki / f"{HV[9]}.crt", site.pki / f"{HV[9]}.key")
    return made


CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
REFUSED: dict[str, tuple[Callable[[Site], ssl.SSLContext], str]] = {
    "no certificate": (lambda site: site.context(None), "it shows no certificate"),
    "one of a wrong authority": (lambda site: made(site, "a stranger", CLIENT, 0, 9), "unable to get local issuer"),
    "one of the controller's authority": (lambda site: made(site, "ca", CLIENT, 0, 9), "unable to get local issuer"),
    "one that has expired": (lambda site: made(site, "switchca", CLIENT, -9, 8), "certificate has expired"),
    "one of tomorrow": (lambda site: made(site, "switchca", CLIENT, 1, 8), "certificate is not yet valid"),
    "a wrong idea of the controller": (stranger_to_us, "it does not believe our certificate"),
    "one for servers": (lambda site: made(site, "switchca", SERVER, 0, 9), "certificate purpose"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_handshake_that_is_refused(site: Site, what: str) -> None:
    context, words = REFUSED[what]
    for _ in range(2):
        assert is_refused(site, context(site))
    wait_until("it is said", lambda: words in site.log())
    (line,) = {line.split(" ", 2)[2] for line in site.log().splitlines() if words in line}
    assert "TLS handshake failed address=127.0.0.1 error=" in line
    assert site.log().count(line) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(site: Site, version: ssl.TLSVersion) -> None:
    context = site.context(HV[9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError):  # noqa: PT011 - whichever
        site.secure(context=context)


NO_TLS = {
    "OpenFlow": OPENFLOW,
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "garbage": b"\xff" * 300,
    "a half": b"\x16\x03\x01\x02",
}


@pytest.mark.parametrize("what", NO_TLS)
def test_what_is_no_tls_is_not_answered(site: Site, what: str) -> None:
    with site.connect() as client:
        client.sendall(NO_TLS[what])
        if what == "a half":
            client.shutdown(socket.SHUT_WR)
        ended(client)
    assert site.controller.call("GET", "/healthz").status == 200
    if what == "OpenFlow":
        assert "it speaks no TLS (`tcp:` for `ssl:`?)" in site.log()


def test_garbage_inside_of_tls_ends_its_connection_and_holds_up_nobody(site: Site) -> None:
    wait_until("in step", lambda: site.in_sync(HV[1]))
    for _ in range(3):
        client = site.secure(HV[10])
        client.sendall(OPENFLOW)
        socket.socket.send(client, b"\x17\x03\x03\x00\x20" + b"\xff" * 32)
        ended_raw(client)
        assert site.controller.call("GET", "/healthz").status == 200
    assert site.in_sync(HV[1])


def ended_raw(client: ssl.SSLSocket) -> None:
    with socket.socket(fileno=client.detach()) as below:
        below.settimeout(20)
        try:
            while below.recv(65536):
                pass
        except ConnectionError:
            pass


# --------------------------------------------------------------------------------------------- renewal


def test_renewed_certificates_of_both_ends_are_taken_up(site: Site) -> None:
    def shown() -> bytes | None:
        with site.secure(HV[9]) as client:
            return client.getpeercert(binary_form=True)

    def der() -> bytes:
        return ssl.PEM_cert_to_DER_cert((site.pki / "controller.crt").read_text())

    first = der()
    assert shown() == first
    certificates.make(site.pki, [x509.DNSName("localhost")], 60, True, NOW)
    assert shown() == der() != first
    # A hypervisor's: ovs-vswitchd looks at its files, and shows what it finds to the next connection.
    certificates.make(site.pki, [], 60, True, NOW, [[*HV[1:4], HV[8]]])
    assert site.controller.call("PUT", f"/v1/hypervisors/{HV[8]}", {}).status == 201
    site.ovs.add_bridge("br8", ("br8p1",), 8)
    point_at(site, "br8")
    wait_until("the one that was added is in step", lambda: site.in_sync(HV[8]))
    site.ovs.vsctl("del-br", "br8")


def test_what_cannot_be_served_is_said_at_the_start(tmp_path: Path) -> None:
    options = {**tls_options(tmp_path), "ctl_cert": "/no/such.crt"}
    with pytest.raises(LabError, match=r"firewall: ctl_cert: cannot read /no/such\.crt"):
        Controller(tmp_path, openflow_tls=options).start()


def test_a_switch_of_ovs_pki_is_let_in_and_one_that_was_revoked_is_not(site: Site, tmp_path: Path) -> None:
    """The lines of docs/operations.md, with ovs-pki's own directory and names."""

    def run(*words: str, cwd: Path = tmp_path) -> None:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    pki = f"--dir={tmp_path}/pki"
    run("ovs-pki", pki, "--log=pki.log", "init")
    run("ovs-pki", pki, "--log=pki.log", "-u", "req+sign", HV[11], "switch")
    authority = tmp_path / "pki/switchca"
    both = site.pki / "switchca.crt"
    alone = both.read_bytes()
    both.write_bytes(alone + (authority / "cacert.pem").read_bytes())
    context = site.context(None)
    context.load_cert_chain(tmp_path / f"{HV[11]}-cert.pem", tmp_path / f"{HV[11]}-privkey.pem")
    with site.secure(context=context) as client:
        client.sendall(OPENFLOW)
        assert next(messages(client))[0] == 0
        run("openssl", "ca", "-config", "ca.cnf", "-revoke", str(tmp_path / f"{HV[11]}-cert.pem"), cwd=authority)
        run("openssl", "ca", "-config", "ca.cnf", "-gencrl", "-out", "crl.pem", cwd=authority)
        both.write_bytes(both.read_bytes() + (authority / "crl.pem").read_bytes())
        assert [kind for kind, _ in messages(client) if kind not in (0, 2, 5)] == []  # until it is ended
    wait_until(
        "it is said",
        lambda: f"a certificate was revoked: disconnected address=127.0.0.1 certificate={HV[11]}" in site.log(),
    )
    assert is_refused(site, context)
    both.write_bytes(alone)


def test_who_has_said_who_it_is_keeps_its_place(site: Site) -> None:
    """The last one, since by now most of the time is over that strangers have."""
    since = site.hypervisor(HV[2])["connected_since"]
    over = datetime.fromisoformat(since) + timedelta(seconds=IDENTIFY + 2)
    wait_until("strangers would be gone", lambda: datetime.now(UTC) > over)
    assert site.hypervisor(HV[2])["connected_since"] == since
    assert site.in_sync(HV[2])
