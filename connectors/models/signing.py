"""Signatures of registered models: the trainer's key vouches for a file, and workers know the key's public half only.

A digest says that a file is the one that was registered; whoever may write the registry can change both together. What
he cannot make is a signature (Ed25519, RFC 8032), which is kept beside the digest as a tag of the version.
"""

from __future__ import annotations

import base64
import binascii
import logging

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from connectors.settings import Settings
from schemas.errors import ConfigurationError, ModelRefusedError

SIGNATURE_TAG = "signature"

log = logging.getLogger("healthalliance.models")

_PURPOSE = "healthalliance-model-v1"  # nothing else that the key may ever sign begins so


def new_key_pair() -> tuple[str, str]:
    """Make a key and its public half, each 32 bytes as base64."""
    key = Ed25519PrivateKey.generate()
    return _text(key.private_bytes_raw()), _text(key.public_key().public_bytes_raw())


def signature(settings: Settings, digest: str) -> str | None:
    """Sign a file of `MODEL_NAME` by its SHA-256; None where there is no `MODEL_SIGNING_KEY`.

    Raises ConfigurationError for what is no key.
    """
    secret = settings.model_signing_key.get_secret_value()
    if not secret:
        return None
    key = Ed25519PrivateKey.from_private_bytes(_key(secret, "MODEL_SIGNING_KEY"))
    return _text(key.sign(_message(settings.model_name, digest)))


def is_required(settings: Settings) -> bool:
    """Tell whether only signed models are used here: `MODEL_PUBLIC_KEYS` are set."""
    return bool(settings.model_public_keys.strip())


def warn_of_unsigned(settings: Settings) -> None:
    """Say in the log that models are used unsigned here, where that is so."""
    if not is_required(settings):
        log.warning("MODEL_PUBLIC_KEYS is not set: whoever may write the model registry decides which model scores.")


def require_signature(settings: Settings, version: str, digest: str, given: str) -> None:
    """Raise ModelRefusedError unless one of `MODEL_PUBLIC_KEYS` has signed the digest; none set: nothing is asked.

    Raises ConfigurationError for what is no key.
    """
    if not is_required(settings):
        return
    named = f"{settings.model_name} version {version}"
    if not given:
        raise ModelRefusedError(
            f"{named} is not signed; whoever holds MODEL_SIGNING_KEY signs it: healthalliance model sign {version}.",
            reason="unsigned",
        )
    if not any(_has_signed(one, settings.model_name, digest, given) for one in settings.model_public_keys.split(",")):
        raise ModelRefusedError(f"{named} is signed by none of MODEL_PUBLIC_KEYS for this file.", reason="signed-by")


def _has_signed(public_key: str, name: str, digest: str, given: str) -> bool:
    key = Ed25519PublicKey.from_public_bytes(_key(public_key, "MODEL_PUBLIC_KEYS"))
    try:
        key.verify(base64.b64decode(given, validate=True), _message(name, digest))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _message(name: str, digest: str) -> bytes:
    return f"{_PURPOSE}\n{name}\n{digest}".encode()


def _key(text: str, setting: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigurationError(f"{setting} takes 32 bytes as base64; `healthalliance model key` makes a pair.")
    return key


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
