"""What a TLS server shows, and whom it believes: read from files, and again whenever they change.

For the REST server and for the listener of switches.  Knows no sockets and nothing of eventlet.  What cannot be used is
told with the option and the file that are at fault.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from . import logs

LOG = logs.get(__name__)
_REVOCATION_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class CertificateError(Exception):
    """Files that cannot be used."""


@dataclass(frozen=True)
class Use:
    """What a certificate is for: the options that name its files, and what is spoken inside."""

    name: str
    certificate: str
    key: str
    authorities: str = ""
    protocols: tuple[str, ...] = ()


HTTPS = Use("HTTPS", "tls_certificate", "tls_key", protocols=("http/1.1",))
OPENFLOW = Use("OpenFlow", "ctl_cert", "ctl_privkey", "ca_certs")


EXPIRES: dict[str, datetime] = {}  # what is in force, by its option: when the first part of it expires


class Certificate:
    """A certificate and its key, in PEM; the certificate's file may hold those of intermediate authorities as well.

    With `authorities` a client must show a certificate of one of them.
    """

    def __init__(self, certificate: str, key: str, authorities: str = "", use: Use = HTTPS) -> None:
        """Raises CertificateError."""
        self._files = certificate, key, authorities
        self._use = use
        self._seen = self._stamp()
        self._context = self._load()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection.  A renewal that cannot be used is logged, once, and what was good stays."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._context = self._load()
            except CertificateError as error:
                LOG.error("the renewed certificate is not used, the former one still is", error=error)
            else:
                LOG.info(
                    "a new certificate is in use", server=self._use.name, files=", ".join(filter(None, self._files))
                )
        return self._context

    def _load(self) -> ssl.SSLContext:
        certificate, key, authorities = self._files
        context = load(certificate, key, authorities, self._use)
        EXPIRES[self._use.certificate] = _certificates(self._use.certificate, certificate)[0].not_valid_after_utc
        if authorities:
            ends = [each.not_valid_after_utc for each in _certificates(self._use.authorities, authorities)]
            ends += [each.next_update_utc for each in self.revoked() if each.next_update_utc is not None]
            EXPIRES[self._use.authorities] = min(ends)
        return context

    def revoked(self) -> tuple[x509.CertificateRevocationList, ...]:
        """What the authorities' file says of revoked certificates."""
        try:
            return revocation_lists(_read(self._use.authorities, self._files[2]))
        except CertificateError:
            return ()  # the context that is in force did not come from this file

    def _stamp(self) -> tuple[object, ...]:
        """Something that differs once a file has been written or replaced."""
        found: list[object] = []
        for path in filter(None, self._files):
            try:
                status = os.stat(path)
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def load(certificate: str, key: str, authorities: str = "", use: Use = HTTPS) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and newer, with the ciphers that Python and OpenSSL hold to be good."""
    shown = _certificates(use.certificate, certificate)[0]
    valid = shown.not_valid_before_utc, shown.not_valid_after_utc
    if not valid[0] <= datetime.now(UTC) <= valid[1]:
        raise CertificateError(f"{use.certificate}: {certificate} is valid from {valid[0]} to {valid[1]}, not now")
    try:
        private = load_pem_private_key(_read(use.key, key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{use.key}: {key} holds no private key in PEM without a password: {error}") from None
    if private.public_key() != shown.public_key():
        raise CertificateError(f"{use.key}: {key} is not the key of the certificate in {certificate}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if use.protocols:
        context.set_alpn_protocols(list(use.protocols))
    try:
        # A password: OpenSSL would ask the terminal for one, should the file just have been replaced.
        context.load_cert_chain(certificate, key, "")
    except OSError as error:
        raise CertificateError(f"{use.certificate}: {certificate} cannot be served: {error}") from None
    if authorities:
        _believe(context, authorities, use.authorities)
    return context


def _believe(context: ssl.SSLContext, path: str, option: str) -> None:
    """Clients must show a certificate of these authorities, which their lists of revoked ones, if any, do not name."""
    _certificates(option, path)
    lists = revocation_lists(_read(option, path))
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise CertificateError(f"{option}: {path} cannot be used: {error}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # No session goes on without a new look at the certificate.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if lists:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    for each in lists:
        if each.next_update_utc is not None and each.next_update_utc < datetime.now(UTC):
            LOG.error(
                "a list of revoked certificates has expired: nobody of its authority can connect",
                option=option, issuer=each.issuer.rfc4514_string(), file=path, expired=each.next_update_utc,
            )  # fmt: skip


def revocation_lists(data: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    """Those of a file in PEM that holds other things as well.  Raises CertificateError."""
    try:
        return tuple(x509.load_pem_x509_crl(found) for found in _REVOCATION_LIST.findall(data))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"a list of revoked certificates cannot be read: {error}") from None


def _certificates(option: str, path: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(_read(option, path))
        for one in found:
            one.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{option}: {path} holds no certificate in PEM: {error}") from None
    return found


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(f"{option}: cannot read {path}: {error.strerror}") from None
