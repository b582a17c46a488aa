"""HTTPS: which handshakes there are, what becomes of those that are none, and certificates that are renewed."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api_server import OPERATOR, Process, lab_certificate, read_all
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from test_api_server import AUTH, split

from firewall_app import certificates
from firewall_app.tls import Certificate, CertificateError, load

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Process]:
    settings, trust = lab_certificate(directory)
    process = Process(tls=trust, http_timeout=1, **settings)
    yield process
    assert process.stop() == ""


def context(directory: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if version is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that is the point of the old ones
            made.minimum_version = made.maximum_version = version
        made.set_ciphers("ALL:@SECLEVEL=0")
    return made


# --------------------------------------------------------------------------------------------- handshakes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_versions(server: Process, directory: Path, version: ssl.TLSVersion) -> None:
    with context(directory, version).wrap_socket(server.connect_plainly(), server_hostname="localhost") as client:
        client.sendall(GET)
        assert split(read_all(client))[0] == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(server: Process, directory: Path, version: ssl.TLSVersion) -> None:
    with server.connect_plainly() as client, pytest.raises((ssl.SSLError, ConnectionError)):
        context(directory, version).wrap_socket(client, server_hostname="localhost")


def test_what_may_be_spoken_inside(server: Process, directory: Path) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
        made = context(directory)
        made.set_alpn_protocols(offered)
        with made.wrap_socket(server.connect_plainly(), server_hostname="localhost") as client:
            assert client.selected_alpn_protocol() == chosen


def test_an_answer_ends_with_the_goodbye_of_tls(server: Process, directory: Path) -> None:
    """A client that takes a lost connection for an attack is content."""
    plain = server.connect_plainly()
    with context(directory).wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
        client.sendall(GET)
        assert split(read_all(client))[0] == 200


def test_requests_trusts_it_by_the_environment_alone(server: Process, directory: Path) -> None:
    """As pydo, python-digitalocean and whatever else stands on requests."""
    code = f"""
import requests
answer = requests.get("https://localhost:{server.port}/v2/droplets?per_page=1",
                      headers={{"Authorization": "Bearer {OPERATOR}"}}, timeout=30)
print(answer.status_code, answer.json()["links"]["pages"]["next"])
"""
    environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(directory / "ca.crt")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"200 https://localhost:{server.port}/v2/droplets?page=2&per_page=1", done.stderr


# --------------------------------------------------------------------------------------------- no handshakes


@pytest.mark.parametrize("data", [GET, b"POST /v2/tags HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Content-Length: 0\r\n\r\n"])
def test_who_speaks_http_is_told_so(server: Process, data: bytes) -> None:
    with server.connect_plainly() as client:
        client.sendall(data)
        status, _, body = split(read_all(client))
    assert status == 400
    assert b"HTTPS" in body


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
NO_HANDSHAKES = {
    "nothing": b"",
    "garbage": b"\xff" * 1000,
    "zeros": bytes(1000),
    "half a hello": HELLO,
    "a hello of garbage": HELLO + b"\xff" * 600,
    "half a request without TLS": b"GET / HT",
}


@pytest.mark.parametrize("what", NO_HANDSHAKES)
def test_what_is_no_handshake_ends_and_hurts_nobody(server: Process, what: str) -> None:
    strangers = [server.connect_plainly() for _ in range(20)]
    try:
        for stranger in strangers:
            stranger.sendall(NO_HANDSHAKES[what])
        assert server.call("GET", "/healthz").status == 200
        for stranger in strangers:
            try:
                while stranger.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_handshake_drop_by_drop_has_an_end(server: Process) -> None:
    hello = HELLO + bytes(600)
    with server.connect_plainly() as client:
        client.settimeout(0.2)
        for place in range(len(hello)):
            try:
                client.sendall(hello[place : place + 1])
                if not client.recv(4096):
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the server still listens")


def test_garbage_inside_ends_a_connection(server: Process) -> None:
    """Also where a request was begun, and where one was answered."""
    for beginning in (b"", b"GET / HT", GET.replace(b"Connection: close\r\n", b"")):
        with server.connect() as client:
            client.sendall(beginning)
            socket.socket.send(client, b"\x17\x03\x03\x00\x20" + b"\xff" * 32)
            try:
                read_all(client)
            except OSError:
                pass
    assert server.call("GET", "/healthz").status == 200


def test_resets_at_any_time_are_survived(server: Process) -> None:
    for sent in (b"", HELLO):
        client = server.connect_plainly()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(sent)
        client.close()
    for sent in (b"", b"GET", GET):
        secured = server.connect()
        secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        secured.sendall(sent)
        secured.close()
    assert server.call("GET", "/healthz").status == 200


def test_the_server_ends_whatever_its_clients_are_about(directory: Path) -> None:
    settings, trust = lab_certificate(directory)
    process = Process(tls=trust, **settings)
    with process.connect_plainly(), process.connect_plainly() as half, process.connect(), process.connect() as body:
        half.sendall(HELLO)
        body.sendall(b"POST /v2/tags HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Content-Length: 9\r\n\r\n")
        assert process.call("GET", "/healthz").status == 200
        assert process.stop() == ""
    assert process.left == 0


# --------------------------------------------------------------------------------------------- renewal


def shown(process: Process, directory: Path) -> bytes | None:
    """The certificate that a new connection is shown."""
    unchecked = context(directory)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    with unchecked.wrap_socket(process.connect_plainly()) as client:
        return client.getpeercert(binary_form=True)


def der(directory: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((directory / "server.crt").read_text())


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    settings, trust = lab_certificate(tmp_path)
    process = Process(tls=trust, **settings)
    try:
        first = der(tmp_path)
        with process.connect() as old:
            assert shown(process, tmp_path) == first
            lab_certificate(tmp_path)
            assert shown(process, tmp_path) == der(tmp_path) != first
            old.sendall(GET)
            assert split(read_all(old))[0] == 200
        second = der(tmp_path)
        (tmp_path / "server.key").write_text("nonsense")
        assert [shown(process, tmp_path) for _ in range(3)] == [second] * 3
        (tmp_path / "server.crt").unlink()
        assert shown(process, tmp_path) == second
        lab_certificate(tmp_path)
        assert shown(process, tmp_path) == der(tmp_path) != second
    finally:
        said = process.stop()
    assert said.count("the renewed certificate is not used") == 2  # once for each change, not for each connection
    assert str(tmp_path / "server.key") in said


def test_a_renewal_in_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab_certificate(tmp_path)
    certificate = Certificate(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    first = certificate.context
    assert certificate.context is first
    lab_certificate(tmp_path)
    with caplog.at_level(logging.INFO):
        second = certificate.context
    assert second is not first
    assert "new certificate" in caplog.text


# --------------------------------------------------------------------------------------------- what cannot be served


def test_what_cannot_be_served_is_told_with_its_file(tmp_path: Path) -> None:
    lab_certificate(tmp_path)
    good, key = tmp_path / "server.crt", tmp_path / "server.key"
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("no PEM")
    for certificate_file, key_file, words in (
        (missing, key, f"cannot read {missing}"),
        (tmp_path, key, f"cannot read {tmp_path}"),
        (text, key, f"{text} holds no certificate"),
        (key, key, f"{key} holds no certificate"),
        (good, missing, f"cannot read {missing}"),
        (good, text, f"{text} holds no private key"),
        (good, good, f"{good} holds no private key"),
        (good, tmp_path / "ca.key", f"ca.key is not the key of the certificate in {good}"),
    ):
        with pytest.raises(CertificateError) as told:
            load(str(certificate_file), str(key_file))
        assert words in str(told.value)


@pytest.mark.parametrize(("begins", "days"), [(-10, 9), (2, 9)])
def test_a_certificate_that_is_not_valid_now(tmp_path: Path, begins: int, days: int) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(days=begins)
    authority = certificates.new_authority(moment)
    names = [certificates.general_name("localhost")]
    files = certificates.Files(tmp_path / "server.crt", tmp_path / "server.key")
    files.write(certificates.issue(authority, ExtendedKeyUsageOID.SERVER_AUTH, names, moment, days))
    with pytest.raises(CertificateError, match=r"server\.crt is valid from .* to .*, not now"):
        load(str(files.certificate), str(files.key))


def test_a_key_behind_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    lab_certificate(tmp_path)
    pair = certificates.Files(tmp_path / "server.crt", tmp_path / "server.key").read()
    locked = tmp_path / "locked.key"
    locked.write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(CertificateError, match=r"locked\.key holds no private key in PEM without a password"):
        load(str(tmp_path / "server.crt"), str(locked))
