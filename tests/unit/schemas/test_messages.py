"""Record ids: the same for the same score, another one for any other."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import record_id

Source = tuple[str, int, int, str, str]
PSEUDONYMS = st.uuids().map(str)
SOURCES = st.tuples(
    PSEUDONYMS, st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), PSEUDONYMS, st.text("0123456789ab", min_size=1)
)


@given(SOURCES)
def test_a_repeat_of_the_same_score_carries_the_same_id(source: Source) -> None:
    assert record_id(*source) == record_id(*source)
    assert UUID(record_id(*source)).version == 5


def test_a_record_id_stays_what_it_is_from_release_to_release() -> None:
    # Consumers drop what they have seen by it.
    assert record_id("t", 0, 5, "e", "1") == "7628c3fb-ee02-564d-b651-b3ff10e1441f"


@given(SOURCES, SOURCES, st.integers(0, 4))
def test_any_other_component_gives_another_id(source: Source, other: Source, place: int) -> None:
    changed: tuple[object, ...] = (*source[:place], other[place], *source[place + 1 :])
    assert (record_id(*changed) == record_id(*source)) == (changed == source)  # type: ignore[arg-type]  # still a Source


@given(st.integers(0, 999), st.integers(0, 999))
def test_partition_and_offset_do_not_run_into_each_other(partition: int, offset: int) -> None:
    one, other = record_id("t", partition, offset, "e", "1"), record_id("t", offset, partition, "e", "1")
    assert (one == other) == (partition == offset)
    assert record_id("t", 1, 11, "e", "1") != record_id("t", 11, 1, "e", "1")
