"""How far a snapshot has read its partitions: what identifies it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """How far a partition was read: offsets below `end_offset`."""

    topic: str
    topic_id: str
    partition: int
    end_offset: int


def identity_digest(ends: Iterable[PartitionEnd]) -> str:
    """Return the SHA-256 of a snapshot's identity, in hexadecimal; a topic's name is no part of it."""
    ordered = sorted((end.topic_id, end.partition, end.end_offset) for end in ends)
    return sha256(json.dumps(ordered).encode()).hexdigest()
