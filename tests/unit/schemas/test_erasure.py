"""Certificates of erasure: signed, and found out where anything was changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas.erasure import (
    Certificate,
    Event,
    Future,
    Remainder,
    Store,
    TrainedModel,
    Training,
    is_genuine,
    new_key,
    private_key,
    public_key,
    public_pem,
    signed_certificate,
)
from schemas.errors import ConfigurationError

AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
KEY = private_key(new_key().encode())
CERTIFICATE = Certificate(
    institution="dkfz",
    patient_pseudonym="25191669-e566-84f2-8cd0-85c54d5b24f0",
    begun_at=AT,
    finished_at=AT,
    event=Event("encounters.dkfz", 1, 42),
    future=Future.ACCEPT,
    stores=(Store("postgresql", "risk_scores", 3, 3),),
    models=(TrainedModel("readmission-risk", "7", "ab", "cd", Training.YES),),
    remains=(Remainder("encounters.dkfz", "the events", "2025-04-07", "retention"),),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the way to each value of a document."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [way for name, one in pairs for way in places(one, (*path, name))]
    return [path]


def changed(document: Any, path: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(document))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = "changed"
    return copy


def test_a_certificate_that_was_written_and_read_is_genuine() -> None:
    document = json.loads(json.dumps(signed_certificate(CERTIFICATE, KEY), indent=2))
    assert is_genuine(document, public_key(public_pem(KEY).encode()))
    assert (document["nothing_found"], document["stores"][0]["removed"]) == (False, 3)


def test_whatever_is_changed_is_found_out() -> None:
    document = signed_certificate(CERTIFICATE, KEY)
    signed = [path for path in places(document) if path[0] != "signature" or path[1] == "value"]
    assert len(signed) > 15
    assert [path for path in signed if is_genuine(changed(document, path), KEY.public_key())] == []
    assert not is_genuine({**document, "more": 1}, KEY.public_key())
    assert not is_genuine({name: one for name, one in document.items() if name != "models"}, KEY.public_key())


def test_another_key_does_not_verify_it() -> None:
    document = signed_certificate(CERTIFICATE, KEY)
    assert not is_genuine(document, private_key(new_key().encode()).public_key())


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some))
)
def test_what_is_no_certificate_is_not_genuine(document: Any) -> None:
    assert not is_genuine(document, KEY.public_key())


def test_a_key_of_another_kind_is_refused() -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"", b"nonsense", other):
        with pytest.raises(ConfigurationError):
            private_key(pem)
        with pytest.raises(ConfigurationError):
            public_key(pem)
