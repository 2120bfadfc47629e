"""Which model scored an event of the log, as far as its topic of scores tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from healthalliance.rebuild import _ScoredBy


def event(partition: int, offset: int) -> Any:
    return SimpleNamespace(raw=SimpleNamespace(partition=partition, offset=offset))


def record(partition: int, offset: int, version: str) -> Any:
    return b"Patient/1", {"source_partition": partition, "source_offset": offset, "model_version": version}


def versions_of(known: list[Any], log: list[tuple[int, int]]) -> list[str | None]:
    scored_by = _ScoredBy.of(known)
    return [scored_by.version_for(cast(Any, event(*place))) for place in log]


def test_an_event_is_scored_by_the_model_that_its_record_names() -> None:
    known = [record(0, 0, "1"), record(0, 1, "2"), record(0, 2, "1")]
    assert versions_of(known, [(0, 0), (0, 1), (0, 2)]) == ["1", "2", "1"]


def test_an_event_without_a_record_is_scored_as_those_before_it_in_its_partition() -> None:
    known = [record(0, 0, "1"), record(1, 0, "2"), record(0, 3, "3")]
    assert versions_of(known, [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 3), (0, 4)]) == [
        "1", "2", "1", "2", "2", "3", "3",
    ]  # fmt: skip


def test_nothing_is_scored_before_the_first_record_as_while_a_history_was_folded() -> None:
    assert versions_of([record(0, 2, "1")], [(0, 0), (1, 0), (0, 2), (1, 1)]) == [None, None, "1", "1"]


def test_tombstones_name_no_model() -> None:
    assert versions_of([(b"Patient/1", None)], [(0, 0)]) == [None]
