"""A standstill: events wait, and nobody takes them."""

from __future__ import annotations

from streams.standstill import Standstill

LIMIT_S = 60.0


def looks(*seen: tuple[float, dict[str, int], dict[str, int]]) -> list[list[str]]:
    watch = Standstill[str](LIMIT_S)
    return [watch.look(ends, done, now) for now, ends, done in seen]


def test_a_partition_whose_events_wait_longer_than_the_limit_stands_still() -> None:
    assert looks((0, {"a": 9}, {"a": 7}), (60, {"a": 9}, {"a": 7}), (61, {"a": 20}, {"a": 7})) == [[], [], ["a"]]


def test_one_that_moves_does_not_however_much_waits() -> None:
    assert looks(*((at, {"a": 10_000}, {"a": int(at)}) for at in (0.0, 50.0, 100.0, 150.0))) == [[]] * 4


def test_the_time_counts_from_when_events_began_to_wait() -> None:
    assert looks((0, {"a": 7}, {"a": 7}), (1000, {"a": 9}, {"a": 7}), (1050, {"a": 9}, {"a": 7})) == [[], [], []]


def test_each_partition_is_judged_by_itself_and_one_that_left_is_forgotten() -> None:
    ends = {"a": 9, "b": 9}
    seen = (
        (0.0, ends, {"a": 7, "b": 7}),
        (50.0, ends, {"a": 8, "b": 7}),
        (61.0, ends, {"a": 8, "b": 7}),
        (62.0, ends, {"a": 8}),
        (63.0, ends, {"a": 8, "b": 7}),
    )
    assert looks(*seen) == [[], [], ["b"], [], []]


def test_after_known_trouble_the_time_counts_anew() -> None:
    watch = Standstill[str](LIMIT_S)
    watch.look({"a": 9}, {"a": 7}, 0)
    watch.forget()
    assert watch.look({"a": 9}, {"a": 7}, 61) == []
