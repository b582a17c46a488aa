"""Makes what a lab needs to speak TLS: a small certificate authority, and a certificate of it for the REST server.

Run it again for another certificate of the same authority, which clients trust already; --force replaces the one that
is there, and a running controller takes up the new one by itself.  Remove ca.crt and ca.key for a new authority.

With --hypervisor it makes what OpenFlow over TLS needs: a certificate for the controller, an authority of hypervisors
(switchca.crt), and a certificate for each hypervisor named, which may speak for its datapath ids and no others.  What
is there already of the controller's own stays; --force replaces the certificates of the hypervisors named.

  python -m firewall_app.certificates --directory /etc/firewall
  python -m firewall_app.certificates --directory /etc/firewall --name fw.example.org --name 192.0.2.10 --force
  python -m firewall_app.certificates --directory /etc/firewall --hypervisor 0000000000000001 \\
      --hypervisor 0000000000000002,0000000000000003      # this one has two bridges

Exit status: 0 made, 1 not made, with the reason, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LONGEST_NAME = 64  # characters of a common name (RFC 5280, A.1)
SKEW = timedelta(hours=1)  # clocks of clients may be behind ours
DATAPATH_IDS = re.compile(r"[0-9a-f]{16}(,[0-9a-f]{16})*")
HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,62})?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62})?)*\.?")


class NotMadeError(Exception):
    """Nothing was made; says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Files:
    """Where a pair is kept."""

    certificate: Path
    key: Path

    def exist(self) -> bool:
        return self.certificate.exists() or self.key.exists()

    def read(self) -> Pair:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = load_pem_private_key(self.key.read_bytes(), None)
        except OSError as error:
            raise NotMadeError(f"cannot read {error.filename}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise NotMadeError(f"{self.certificate} and {self.key} are no authority: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise NotMadeError(f"{self.key} is not the key that was made with {self.certificate}")
        return Pair(certificate, key)

    def write(self, pair: Pair) -> None:
        key = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _replace(self.key, key, 0o600)
        _replace(self.certificate, pair.certificate.public_bytes(Encoding.PEM), 0o644)


def new_authority(now: datetime, days: int = AUTHORITY_DAYS, of: str = "lab") -> Pair:
    """An authority that signs certificates of ends, and no other authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Cloud firewall {of} authority {x509.random_serial_number():x}"[:40])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Pair, usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName], now: datetime, days: int
) -> Pair:
    """A certificate for one end; `usage` is what it may do: SERVER_AUTH, or for a switch CLIENT_AUTH."""
    issuer = authority.certificate
    if issuer.not_valid_after_utc <= now:
        raise NotMadeError(f"the authority has expired on {issuer.not_valid_after_utc:%Y-%m-%d}; remove its files")
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    signer = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(str(names[0].value)[:LONGEST_NAME]), issuer.subject, key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
    )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(**granted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: granted.get(name, False) for name in every})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def general_name(text: str) -> x509.GeneralName:
    """A host name, `*.` allowed, or an address.  Raises ValueError."""
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        pass
    if len(text) > 253 or not HOST_NAME.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f"{text!r} is neither a host name nor an address")
    return x509.DNSName(text.rstrip("."))


def default_names() -> list[str]:
    """How this machine calls itself."""
    host = socket.gethostname()
    own = [host] if HOST_NAME.fullmatch(host) and len(host) <= 253 else []
    return list(dict.fromkeys([*own, "localhost", "127.0.0.1", "::1"]))


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Writes a file whole or not at all: a controller may be reading it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise NotMadeError(f"cannot write {path}: {error.strerror}") from None


def make(
    directory: Path,
    names: Sequence[x509.GeneralName],
    days: int,
    force: bool,
    now: datetime,
    hypervisors: Sequence[Sequence[str]] = (),
) -> list[str]:
    """The command's work; what to tell about it.  `hypervisors`: the datapath ids of each.  Raises NotMadeError."""
    server, controller = _files(directory, "server"), _files(directory, "controller")
    switches = {_files(directory, ids[0]): [x509.DNSName(dpid) for dpid in ids] for ids in hypervisors}
    if switches:
        ours = [files for files in (server, controller) if not files.exist()]
    else:
        ours = [server, *([controller] if controller.exist() else [])]
    for files in switches or [server]:
        if files.exist() and not force:
            raise NotMadeError(f"{files.certificate} or its key is there already; --force replaces them")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotMadeError(f"cannot make {directory}: {error.strerror}") from None
    told: list[str] = []
    if ours:
        authority = _authority(_files(directory, "ca"), "lab", now, told)
        for files in ours:
            _end(files, authority, ExtendedKeyUsageOID.SERVER_AUTH, names, now, days, told)
    if switches:
        authority = _authority(_files(directory, "switchca"), "hypervisors", now, told)
        for files, ids in switches.items():
            _end(files, authority, ExtendedKeyUsageOID.CLIENT_AUTH, ids, now, days, told)
    return told


def _files(directory: Path, name: str) -> Files:
    return Files(directory / f"{name}.crt", directory / f"{name}.key")


def _authority(files: Files, of: str, now: datetime, told: list[str]) -> Pair:
    """The one that is there, or a new one."""
    if files.exist():
        return files.read()
    made = new_authority(now, of=of)
    files.write(made)
    told.append(f"{files.certificate}: a new authority, {_until(made)}")
    return made


def _end(
    files: Files, authority: Pair, usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName],
    now: datetime, days: int, told: list[str],
) -> None:  # fmt: skip
    """A certificate and its key for one end."""
    made = issue(authority, usage, names, now, days)
    files.write(made)
    told.append(f"{files.certificate}: for {', '.join(str(name.value) for name in names)}, {_until(made)}")


def _until(pair: Pair) -> str:
    return f"valid until {pair.certificate.not_valid_after_utc:%Y-%m-%d}"


HINT = """
In the controller's configuration file:

  [firewall]
  tls_certificate = {0}/server.crt
  tls_key = {0}/server.key

Clients need {0}/ca.crt, and it alone:

  curl --cacert {0}/ca.crt https://{1}:8080/healthz
  export SSL_CERT_FILE={0}/ca.crt          # Go: doctl, terraform; Python's ssl; OpenSSL
  export REQUESTS_CA_BUNDLE={0}/ca.crt     # Python's requests: pydo, python-digitalocean
  export NODE_EXTRA_CA_CERTS={0}/ca.crt    # Node.js

Whoever has {0}/ca.key can pass for any server with such a client: keep it away, or remove it when all is made."""

OPENFLOW_HINT = """
For OpenFlow, in the controller's configuration file (in place of ofp_tcp_listen_port):

  [DEFAULT]
  ofp_ssl_listen_port = 6653
  ctl_privkey = {0}/controller.key
  ctl_cert = {0}/controller.crt
  ca_certs = {0}/switchca.crt"""

HYPERVISOR_HINT = """
On the hypervisor, with {0}/{1}.key, {0}/{1}.crt and
{0}/ca.crt copied to its /etc/openvswitch (Open vSwitch reads the key as the user that it runs as):

  chmod 600 /etc/openvswitch/{1}.key
  ovs-vsctl set-ssl /etc/openvswitch/{1}.key /etc/openvswitch/{1}.crt /etc/openvswitch/ca.crt"""

BRIDGE_HINT = """\
  ovs-vsctl set bridge {3} other_config:datapath-id={1} other_config:disable-in-band=true
  ovs-vsctl set bridge {3} fail_mode=secure protocols=OpenFlow13,OpenFlow14
  ovs-vsctl set-controller {3} ssl:{2}:6653
  ovs-vsctl set controller {3} connection_mode=out-of-band inactivity_probe=15000 max_backoff=4000"""

SECRETS_HINT = """
Whoever has {0}/switchca.key can pass for any hypervisor, whoever has {0}/ca.key for the
controller and its REST server: keep both away."""


def hint(directory: Path, names: Sequence[x509.GeneralName], hypervisors: Sequence[Sequence[str]]) -> str:
    """What to configure, line by line."""
    values = [name.value for name in names]
    host = values[0]
    if not hypervisors:
        return HINT.format(directory, f"[{host}]" if ":" in str(host) else host)
    # Open vSwitch takes names only where it was built to resolve them.
    address = next((str(value) for value in values if _is_reachable(value)), "ADDRESS-OF-THE-CONTROLLER")
    address = f"[{address}]" if ":" in address else address
    lines = [OPENFLOW_HINT.format(directory)]
    for ids in hypervisors:
        lines.append(HYPERVISOR_HINT.format(directory, ids[0]))
        lines += (BRIDGE_HINT.format(directory, dpid, address, f"br{place}") for place, dpid in enumerate(ids))
    return "\n".join([*lines, SECRETS_HINT.format(directory)])


def _is_reachable(value: object) -> bool:
    return isinstance(value, IPv4Address | IPv6Address) and not value.is_loopback


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _arguments().parse_args(argv)
    names = arguments.name or [general_name(name) for name in default_names()]
    directory = Path(arguments.directory).absolute()
    try:
        now = datetime.now(UTC).replace(microsecond=0)
        told = make(directory, names, arguments.days, arguments.force, now, arguments.hypervisor)
    except NotMadeError as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 1
    print("\n".join(told))
    print(hint(directory, names, arguments.hypervisor))
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m firewall_app.certificates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--directory",
        default=".",
        metavar="DIR",
        help="where ca.crt, ca.key, server.crt, server.key and the others are; default: here",
    )
    parser.add_argument(
        "--name", action="append", type=_name_argument, metavar="NAME",
        help="a host name or an address by which clients call the server, once for each; "
        f"default: {', '.join(default_names())}",
    )  # fmt: skip
    parser.add_argument(
        "--hypervisor", action="append", type=_hypervisor, metavar="DPID[,DPID...]", default=[],
        help="the datapath ids of the bridges of one hypervisor, 16 hex digits each; once for each hypervisor. "
        "The files are called by the first",
    )  # fmt: skip
    parser.add_argument(
        "--days", type=_days, default=365, metavar="N",
        help=f"how long a certificate is valid, never longer than its authority, which is for "
        f"{AUTHORITY_DAYS} days; default: 365",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace the certificates and keys asked for")
    return parser


def _name_argument(text: str) -> x509.GeneralName:
    try:
        return general_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _hypervisor(text: str) -> tuple[str, ...]:
    if not DATAPATH_IDS.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of datapath ids of 16 hex digits")
    return tuple(text.lower().split(","))


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= AUTHORITY_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days from 1 to {AUTHORITY_DAYS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
