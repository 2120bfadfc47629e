"""Pseudonyms say nothing without the secret, link nothing across institutions; sealed histories open only as sealed."""

from __future__ import annotations

import re
from itertools import combinations, product
from uuid import RFC_4122, UUID

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigurationError
from schemas.institutions import institutions
from schemas.pseudonyms import MIN_SECRET_LENGTH, InstitutionKeys, institution_keys

SECRET, OTHER = "s" * MIN_SECRET_LENGTH, "t" * MIN_SECRET_LENGTH
KEYS = institution_keys(SECRET, "dkfz")
PATIENT = KEYS.patient_pseudonym("p1")
IDS = st.text(max_size=64)


def every(keys: InstitutionKeys, id_: str) -> list[str]:
    return [keys.patient_pseudonym(id_), keys.encounter_pseudonym(id_)]


@given(IDS)
def test_the_same_secret_and_institution_give_the_same_pseudonym(id_: str) -> None:
    assert every(institution_keys(SECRET, "dkfz"), id_) == every(KEYS, id_)


def test_a_pseudonym_stays_what_it_is_from_release_to_release() -> None:
    # A change here unlinks every stored history from its patient.
    assert every(KEYS, "p1") == ["de710a67-1203-84d8-94c7-1d4ba39b237c", "2393a6d2-cc47-8196-b27a-c433d8890040"]


@given(IDS)
def test_one_id_has_another_pseudonym_for_each_secret_institution_and_purpose(id_: str) -> None:
    keys = [institution_keys(secret, one) for secret, one in product((SECRET, OTHER), institutions())]
    assert len({pseudonym for one in keys for pseudonym in every(one, id_)}) == 2 * len(keys)


def test_over_many_patients_two_institutions_pseudonyms_agree_as_coins_do() -> None:
    """122 bits are free: in n ids half of 122 n agree, give or take the square root of a quarter of it."""
    ids = [f"patient-{number}" for number in range(5_000)]
    by_institution = {one: institution_keys(SECRET, one) for one in institutions()}
    columns = {one: [UUID(keys.patient_pseudonym(id_)).int for id_ in ids] for one, keys in by_institution.items()}
    columns["dkfz, another key"] = [UUID(institution_keys(OTHER, "dkfz").patient_pseudonym(id_)).int for id_ in ids]
    columns["dkfz, encounters"] = [UUID(KEYS.encounter_pseudonym(id_)).int for id_ in ids]
    free = ((1 << 128) - 1) & ~(0xF << 76) & ~(0x3 << 62)
    for first, second in combinations(columns.values(), 2):
        assert not set(first) & set(second)
        agreeing = sum((~(a ^ b) & free).bit_count() for a, b in zip(first, second, strict=True))
        trials = 122 * len(ids)
        assert abs(agreeing - trials / 2) < 5 * (trials / 4) ** 0.5
        ranks = [sorted(range(len(ids)), key=one.__getitem__) for one in (first, second)]
        assert sum(a == b for a, b in zip(*ranks, strict=True)) < 15  # nor is their order alike: one is expected


def test_a_keys_name_tells_keys_apart_and_nothing_else() -> None:
    keys = [institution_keys(secret, one) for secret, one in product((SECRET, OTHER), institutions())]
    assert len({one.id for one in keys}) == len(keys)
    assert KEYS.id == institution_keys(SECRET, "dkfz").id
    assert KEYS.id not in KEYS.patient.hex() + KEYS.encounter.hex() + KEYS.session.hex()


@given(IDS, IDS)
def test_two_ids_share_a_pseudonym_only_if_they_are_one(first: str, second: str) -> None:
    assert (KEYS.patient_pseudonym(first) == KEYS.patient_pseudonym(second)) == (first == second)


@given(IDS)
def test_a_pseudonym_is_a_version_8_uuid_in_its_usual_form(id_: str) -> None:
    for pseudonym in every(KEYS, id_):
        uuid = UUID(pseudonym)
        assert (uuid.version, uuid.variant, str(uuid)) == (8, RFC_4122, pseudonym)


@given(st.binary(max_size=300))
def test_what_was_sealed_is_unsealed_and_equal_in_is_equal_out(data: bytes) -> None:
    sealed = KEYS.seal(data, PATIENT)
    assert KEYS.unseal(sealed, PATIENT) == data
    assert institution_keys(SECRET, "dkfz").seal(data, PATIENT) == sealed
    assert len(data) < 4 or data not in sealed


@given(st.binary(max_size=60), st.data())
def test_a_changed_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    sealed = bytearray(KEYS.seal(data, PATIENT))
    sealed[draw.draw(st.integers(0, len(sealed) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(InvalidTag):
        KEYS.unseal(bytes(sealed), PATIENT)


@pytest.mark.parametrize(
    ("keys", "patient"),
    [
        (KEYS, KEYS.patient_pseudonym("p2")),
        (institution_keys(SECRET, "ukhd"), PATIENT),
        (institution_keys(OTHER, "dkfz"), PATIENT),
    ],
)
def test_a_history_opens_for_its_own_patient_institution_and_secret_only(keys: InstitutionKeys, patient: str) -> None:
    with pytest.raises(InvalidTag):
        keys.unseal(KEYS.seal(b"history", PATIENT), patient)


@pytest.mark.parametrize("secret", ["", "x", "s" * (MIN_SECRET_LENGTH - 1)])
def test_a_missing_or_short_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^PSEUDONYM_KEY must be set, to at least 32 characters\.$"):
        institution_keys(secret, "dkfz")


def test_keys_do_not_show_themselves() -> None:
    assert re.fullmatch(r"InstitutionKeys\(\)", repr(KEYS))
