"""Certificates of erasure: what was found of a patient, what is gone, what remains and until when, signed: pure.

A certificate names the patient by the pseudonym alone. It is JSON; signed (Ed25519, RFC 8032) are the bytes that
`signed_bytes` gives of it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from schemas.errors import ConfigurationError

TYPE = "healthalliance-erasure-certificate"
VERSION = 1


class Future(StrEnum):
    """What becomes of events that come for an erased patient later."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class Training(StrEnum):
    """Whether a model's snapshot held the patient's features."""

    YES = "yes"
    POSSIBLY = "possibly"  # its record was superseded later, and compaction may have removed the one that was read
    UNKNOWN = "unknown"  # the model does not say what it was trained on


@dataclass(frozen=True, slots=True)
class Store:
    """What one place held of the patient, in rows, records or files, and how much of it is gone."""

    store: str
    part: str
    found: int
    removed: int


@dataclass(frozen=True, slots=True)
class Remainder:
    """What stays behind where, until when (None: no end is known), and why."""

    where: str
    what: str
    until: str | None
    why: str


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A registered model whose training read the patient's features, or may have; `snapshot`: the identity's digest."""

    name: str
    version: str
    digest: str
    snapshot: str | None
    trained: Training


@dataclass(frozen=True, slots=True)
class Event:
    """Where the erasing event lies on `encounters.<institution>`."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """An erasure; `event` is None where there was nothing to erase."""

    institution: str
    patient_pseudonym: str
    begun_at: datetime
    finished_at: datetime
    event: Event | None
    future: Future
    stores: tuple[Store, ...]
    models: tuple[TrainedModel, ...]
    remains: tuple[Remainder, ...]

    @property
    def found(self) -> int:
        """How much was found, in all places."""
        return sum(one.found for one in self.stores)


def signed_certificate(certificate: Certificate, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Write a certificate as a JSON object with its signature."""
    document = {"type": TYPE, "version": VERSION, "nothing_found": certificate.event is None, **asdict(certificate)}
    document = json.loads(json.dumps(document, default=_text))
    signature = base64.b64encode(key.sign(signed_bytes(document))).decode()
    return {**document, "signature": {"algorithm": "Ed25519", "key": key_id(key.public_key()), "value": signature}}


def is_genuine(document: Any, key: Ed25519PublicKey) -> bool:
    """Tell whether this is a certificate as the holder of the key signed it, whatever is given."""
    try:
        value = base64.b64decode(document["signature"]["value"], validate=True)
        key.verify(value, signed_bytes(document))
        return bool(document["type"] == TYPE)
    except (InvalidSignature, binascii.Error, LookupError, TypeError, ValueError, AttributeError):
        return False


def signed_bytes(document: Mapping[str, Any]) -> bytes:
    """Return what is signed: the document without its signature, keys sorted, no spaces, ASCII."""
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def new_key() -> str:
    """Make a private key, as PEM (PKCS #8)."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """Read a private key; raise ConfigurationError for what is none."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError("ERASURE_KEY_LOCATION holds no private key as PEM, unsealed.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("ERASURE_KEY_LOCATION holds a key of another kind than Ed25519.")
    return key


def public_key(pem: bytes) -> Ed25519PublicKey:
    """Read a public key, or a private one's; raise ConfigurationError for what is none."""
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        return private_key(pem).public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("This is a key of another kind than Ed25519.")
    return key


def public_pem(key: Ed25519PrivateKey) -> str:
    """Write the public key that verifies what a private one signs, as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """Name a key: the first 32 hexadecimal digits of its SHA-256."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:32]


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    raise TypeError(f"no JSON: {type(value).__name__}")
