"""Certificates for labs: strict verifiers take them, files are private, and nothing is lost by a second run."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from firewall_app.certificates import NotMadeError, general_name, issue, main, make, new_authority

NOW = datetime.now(UTC).replace(microsecond=0)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_openssl_finds_no_fault_in_them(tmp_path: Path) -> None:
    assert main(["--directory", str(tmp_path), "--name", "fw.example.org", "--name", "192.0.2.10"]) == 0
    for more in ((), ("-verify_hostname", "fw.example.org"), ("-verify_ip", "192.0.2.10")):
        argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *more]
        argv += ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.crt")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_strict_python_client_takes_them(tmp_path: Path) -> None:
    """The handshake in memory, with the flag that Python sets by itself from 3.13 on."""
    assert main(["--directory", str(tmp_path)]) == 0
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    for name in ("localhost", "127.0.0.1", "::1"):
        shake(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        shake(client, server, "elsewhere")


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    assert main(["--directory", str(tmp_path / "new" / "one")]) == 0
    made = {path.name: mode(path) for path in (tmp_path / "new" / "one").iterdir()}
    assert made == {"ca.crt": 0o644, "ca.key": 0o600, "server.crt": 0o644, "server.key": 0o600}


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--directory", str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main(["--directory", str(tmp_path)]) == 1
    assert "server.crt or its key is there already; --force" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert main(["--directory", str(tmp_path), "--force", "--name", "other"]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}


def test_a_certificate_does_not_outlive_its_authority() -> None:
    authority = new_authority(NOW, days=10)
    names = [general_name("localhost")]
    made = issue(authority, ExtendedKeyUsageOID.SERVER_AUTH, names, NOW, 365)
    assert made.certificate.not_valid_after_utc == NOW + timedelta(days=10)
    with pytest.raises(NotMadeError, match="expired"):
        issue(authority, ExtendedKeyUsageOID.SERVER_AUTH, names, NOW + timedelta(days=10), 365)


def test_an_authority_whose_key_is_another_is_not_used(tmp_path: Path) -> None:
    make(tmp_path, [general_name("localhost")], 30, False, NOW)
    (tmp_path / "ca.key").write_bytes((tmp_path / "server.key").read_bytes())
    with pytest.raises(NotMadeError, match=r"ca\.key is not the key"):
        make(tmp_path, [general_name("localhost")], 30, True, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(NotMadeError, match=r"cannot read .*ca\.key"):
        make(tmp_path, [general_name("localhost")], 30, True, NOW)


def test_days_and_names_are_what_was_asked_for(tmp_path: Path) -> None:
    assert main(["--directory", str(tmp_path), "--days", "7", "--name", "*.example.org", "--name", "::1"]) == 0
    made = certificate(tmp_path / "server.crt")
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["*.example.org", "::1"]
    assert timedelta(days=6) < made.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=7)


@pytest.mark.parametrize(
    "name", ["", "a b", "http://x", "-x", "256.1.1.1", "1.2.3", "a..b", "x" * 64 + ".org", "ü.org"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        general_name(name)


@pytest.mark.parametrize("wrong", [["--days", "0"], ["--days", "99999"], ["--name", "a b"], ["--dir", "x"]])
def test_wrong_usage(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2


def test_a_directory_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--directory", str(tmp_path / "file" / "below")]) == 1
    assert "cannot make" in capsys.readouterr().err


def test_the_command_says_what_to_configure(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "firewall_app.certificates", "--directory", "lab"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"tls_certificate = {tmp_path}/lab/server.crt" in done.stdout
    assert f"curl --cacert {tmp_path}/lab/ca.crt https://" in done.stdout
    assert done.stderr == ""


# ---- OpenFlow

HV = "--hypervisor"
ONE, TWO, THREE = (f"{number:016x}" for number in (1, 0x2AB, 3))


def test_hypervisors_have_an_authority_of_their_own(tmp_path: Path) -> None:
    assert main(["--directory", str(tmp_path), HV, ONE, HV, f"{TWO.upper()},{THREE}"]) == 0
    names = ("ca", "switchca", "server", "controller", ONE, TWO)
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        f"{name}.{kind}": bits for name in names for kind, bits in (("crt", 0o644), ("key", 0o600))
    }
    for authority, name, purpose, right in (
        ("switchca", ONE, "sslclient", True),
        ("switchca", TWO, "sslclient", True),
        ("ca", "controller", "sslserver", True),
        ("ca", ONE, "sslclient", False),
        ("switchca", "controller", "sslserver", False),
        ("switchca", ONE, "sslserver", False),
    ):
        argv = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", f"{authority}.crt", f"{name}.crt"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is right, (name, done.stderr)


def test_a_hypervisor_is_added_and_what_there_is_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def run(*more: str) -> tuple[int, set[str]]:
        before = held()
        status = main(["--directory", str(tmp_path), *more])
        return status, {name for name, data in held().items() if data != before.get(name)}

    assert run()[0] == 0  # a REST server that was there before
    assert run(HV, ONE) == (
        0,
        {f"{name}.{kind}" for name in ("controller", "switchca", ONE) for kind in ("crt", "key")},
    )
    assert run(HV, TWO) == (0, {f"{TWO}.crt", f"{TWO}.key"})
    capsys.readouterr()
    assert run(HV, THREE, HV, TWO) == (1, set())
    assert f"{TWO}.crt or its key is there already; --force" in capsys.readouterr().err
    assert run(HV, TWO, "--force") == (0, {f"{TWO}.crt", f"{TWO}.key"})
    assert run("--force") == (0, {"server.crt", "server.key", "controller.crt", "controller.key"})


@pytest.mark.parametrize("wrong", ["1", "000000000000000g", f"{ONE},", f"{ONE} {TWO}", f"0x{ONE}", "../../etc/passwd"])
def test_what_is_no_datapath_id(wrong: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([HV, wrong])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("names", "target"),
    [
        (["fw.example.org", "127.0.0.1", "192.0.2.10"], "ssl:192.0.2.10:6653"),
        (["2001:db8::10"], "ssl:[2001:db8::10]:6653"),
        (["fw.example.org"], "ssl:ADDRESS-OF-THE-CONTROLLER:6653"),  # Open vSwitch may not resolve names
    ],
)
def test_the_controller_that_it_says_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], target: str
) -> None:
    assert main(["--directory", str(tmp_path), HV, ONE, *(part for name in names for part in ("--name", name))]) == 0
    assert f"ovs-vsctl set-controller br0 {target}\n" in capsys.readouterr().out
