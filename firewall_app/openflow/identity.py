"""Which datapaths a certificate speaks for.  Pure.

Each name of the certificate that is a datapath id, 16 hex digits, is one: DNS names of the subject's alternative name,
or, when it has none, the common name (RFC 6125, 6.4.4).  Names that are anything else say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

DATAPATH_ID = re.compile(r"[0-9a-fA-F]{16}")
LONGEST = 200  # characters of its names that people are told


@dataclass(frozen=True)
class Identity:
    """A peer's certificate, as far as it matters here."""

    certificate: x509.Certificate
    names: tuple[str, ...]

    @classmethod
    def of(cls, der: bytes) -> Identity:
        """Raises ValueError for a certificate that cannot be read."""
        certificate = x509.load_der_x509_certificate(der)
        try:
            return cls(certificate, _names(certificate))
        except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(str(error)) from None

    @property
    def datapaths(self) -> frozenset[str]:
        return frozenset(name.lower() for name in self.names if DATAPATH_ID.fullmatch(name))

    def __str__(self) -> str:
        names = ", ".join(self.names) or "nobody"
        return names if len(names) <= LONGEST else f"{names[:LONGEST]}..."

    def is_revoked(self, lists: Iterable[x509.CertificateRevocationList]) -> bool:
        mine = self.certificate
        return any(
            each.issuer == mine.issuer and each.get_revoked_certificate_by_serial_number(mine.serial_number) is not None
            for each in lists
        )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        found = alternative.get_values_for_type(x509.DNSName)
        if found:
            return tuple(found)
    return tuple(str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
