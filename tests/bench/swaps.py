"""How much longer events take while a worker swaps its champion."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from connectors.settings import Settings
from healthalliance.progress import fetch
from healthalliance.publishing import Ledger
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name

_NEAR_S = 1.0


class Timed(NamedTuple):
    """A scored event: when it was handed over and committed, in epoch seconds, and by which version it was scored."""

    committed: float
    handed_over: float
    version: str

    @property
    def took_ms(self) -> float:
        """Return how long it took from handing over to the committed row."""
        return 1000 * (self.committed - self.handed_over)


def timed(settings: Settings, ledger: Ledger) -> list[Timed]:
    """Read when the published events were committed, as PostgreSQL stamped it, in that order."""
    names = {topic_name(TopicFamily.ENCOUNTERS, id_): id_ for id_ in institutions()}
    at = {(names[topic], partition, offset): when for (topic, partition, offset), when in ledger.published_at.items()}
    places = (
        (row, (row["institution"], row["source_partition"], row["source_offset"])) for row in fetch(settings, _ROWS)
    )
    return sorted(
        Timed(row["committed_at"].timestamp(), at[place], row["model_version"]) for row, place in places if place in at
    )


def compare(events: list[Timed]) -> dict[str, float]:
    """Compare events handed over within a second of a swap with all others: the longest and the 99th percentile."""
    swaps = [later.committed for before, later in pairwise(events) if before.version != later.version]
    near = sorted(one.took_ms for one in events if any(abs(one.handed_over - at) < _NEAR_S for at in swaps))
    far = sorted(one.took_ms for one in events if all(abs(one.handed_over - at) >= _NEAR_S for at in swaps))
    found: dict[str, float] = {"swaps": len(swaps)}
    for name, some in (("around", near), ("elsewhere", far)):
        if some:
            found |= {f"longest_{name}": round(some[-1], 1), f"p99_{name}": round(some[int(0.99 * len(some))], 1)}
    return found


_ROWS = """
SELECT institution, source_partition, source_offset, model_version, pg_xact_commit_timestamp(xmin) AS committed_at
FROM risk_scores WHERE superseded_by IS NULL
"""
