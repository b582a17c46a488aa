"""The certificate that the REST server shows: read from two files, and again whenever they change.

Knows no sockets and nothing of eventlet.  What cannot be used is told with the file that is at fault.
"""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from .. import logs

LOG = logs.get(__name__)


class CertificateError(Exception):
    """A certificate that cannot be served."""


class Certificate:
    """A certificate and its key, in PEM; the certificate's file may hold those of intermediate authorities as well."""

    def __init__(self, certificate: str, key: str) -> None:
        """Raises CertificateError."""
        self._files = certificate, key
        self._seen = self._stamp()
        self._context = load(certificate, key)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection.  A renewal that cannot be used is logged, once, and what was good stays."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._context = load(*self._files)
            except CertificateError as error:
                LOG.error("the renewed certificate is not used, the former one still is", error=error)
            else:
                LOG.info("HTTPS has a new certificate", file=self._files[0])
        return self._context

    def _stamp(self) -> tuple[object, ...]:
        """Something that differs once a file has been written or replaced."""
        found: list[object] = []
        for path in self._files:
            try:
                status = os.stat(path)
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return tuple(found)


def load(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and newer, with the ciphers that Python and OpenSSL hold to be good."""
    try:
        shown = x509.load_pem_x509_certificates(_read("tls_certificate", certificate))[0]
        valid = shown.not_valid_before_utc, shown.not_valid_after_utc
        its_key = shown.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"tls_certificate: {certificate} holds no certificate in PEM: {error}") from None
    now = datetime.now(UTC)
    if not valid[0] <= now <= valid[1]:
        raise CertificateError(f"tls_certificate: {certificate} is valid from {valid[0]} to {valid[1]}, not now")
    try:
        private = load_pem_private_key(_read("tls_key", key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"tls_key: {key} holds no private key in PEM without a password: {error}") from None
    if private.public_key() != its_key:
        raise CertificateError(f"tls_key: {key} is not the key of the certificate in {certificate}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A password: OpenSSL would ask the terminal for one, should the file just have been replaced.
        context.load_cert_chain(certificate, key, "")
    except OSError as error:
        raise CertificateError(f"tls_certificate: {certificate} cannot be served: {error}") from None
    return context


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(f"{option}: cannot read {path}: {error.strerror}") from None
