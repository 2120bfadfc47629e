"""A certificate authority for this machine alone: certificates of brokers and users, as PEM files."""

from __future__ import annotations

import ipaddress
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)
_VALID = 3650 * _DAY  # whoever keeps a local stack so long makes it anew


class Authority:
    """Signs certificates; what it makes is in `folder`, its own certificate in `file`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.file = folder, folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own: where two are known by one name, the wrong one is taken for the issuer.
        self._name = _named(f"HealthAlliance local authority {secrets.token_hex(4)}")
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        own = _begun(self._name, self._name, self._key).add_extension(constraints, critical=True)
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a certificate for a user or for this machine's broker; return its file and its key's."""
        key = ec.generate_private_key(ec.SECP256R1())
        addresses = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        made = _begun(_named(name), self._name, key).add_extension(addresses, critical=False)
        certificate, file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, file


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _VALID)
    )
