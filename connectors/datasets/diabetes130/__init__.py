"""Diabetes 130-US hospitals for years 1999-2008 (Strack et al., doi:10.1155/2014/781670, UCI data set 296)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from connectors.datasets.diabetes130.events import event_count, stay_events
from connectors.datasets.diabetes130.parts import ALL, Part, parse_part, stays_of
from connectors.datasets.diabetes130.rows import Stay, read_stays
from connectors.source_event import SourceEvent

__all__ = ["ALL", "Part", "Stay", "parse_part", "read_diabetes130", "read_stays", "stay_events", "stays_of"]


def read_diabetes130(
    path: Path, part: Part = ALL, *, progress: Callable[[int], None] = lambda _: None
) -> Iterator[SourceEvent]:
    """Read a part of the file as events, in time order; raise ConfigurationError as `read_stays`.

    progress: called with each event's share of the file's bytes; they add up to its size.
    """
    stays = stays_of(part, read_stays(path))
    count, size, told = event_count(stays), path.stat().st_size, 0
    for number, event in enumerate(stay_events(stays), start=1):
        yield event
        progress(size * number // count - told)
        told = size * number // count
