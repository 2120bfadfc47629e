"""Sorting more events by time than memory holds."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile
from typing import IO, NamedTuple, Self

import msgspec

from connectors.source_event import SourceEvent

_RUN_BYTES = 64_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LENGTH_BYTES = 8


class _Waiting(NamedTuple):
    """An event in the order it will come: patients, time, then arrival, which is unique."""

    rank: int
    at_us: int
    arrival: int
    key: bytes
    value: bytes
    size: int


class TimeSorter:
    """Collects events and gives them back with Patients first, then by time, equal times as they came.

    Whatever exceeds `run_bytes` waits in unnamed temporary files, sorted by parts and merged when read.
    """

    def __init__(self, run_bytes: int = _RUN_BYTES) -> None:
        self._run_bytes = run_bytes
        self._waiting: list[_Waiting] = []
        self._held_bytes = 0
        self._arrivals = 0
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.close()

    def add(self, event: SourceEvent, size: int, *, is_patient: bool) -> None:
        """Keep an event that has a value, and the disk space it came from."""
        at_us = (event.at - _EPOCH) // _MICROSECOND
        value = event.value or b""
        self._waiting.append(_Waiting(int(not is_patient), at_us, self._arrivals, event.key, value, size))
        self._arrivals += 1
        self._held_bytes += len(value)
        if self._held_bytes > self._run_bytes:
            self._spill()

    def __iter__(self) -> Iterator[tuple[SourceEvent, int]]:
        """Give each event and its size back, in order."""
        for one in heapq.merge(sorted(self._waiting), *map(_read_run, self._runs)):
            yield SourceEvent(one.key, one.value, _EPOCH + one.at_us * _MICROSECOND), one.size

    def _spill(self) -> None:
        # Closed by __exit__: a run outlives this call.
        run = TemporaryFile()  # noqa: SIM115
        self._runs.append(run)
        for one in sorted(self._waiting):
            packed = msgspec.msgpack.encode(one)
            run.write(len(packed).to_bytes(_LENGTH_BYTES) + packed)
        run.seek(0)
        self._waiting, self._held_bytes = [], 0


def _read_run(run: IO[bytes]) -> Iterator[_Waiting]:
    decode = msgspec.msgpack.Decoder(_Waiting).decode
    while length := run.read(_LENGTH_BYTES):
        yield decode(run.read(int.from_bytes(length)))
