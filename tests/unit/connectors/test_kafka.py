"""What needs no broker of Kafka's edges."""

from __future__ import annotations

from uuid import UUID

import confluent_kafka
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka import _uuid_text


@given(st.uuids())
def test_a_topics_id_is_written_as_the_uuid_it_is(uuid: UUID) -> None:
    # Kafka hands its two halves over as signed numbers, as Java keeps them.
    halves = (int.from_bytes(half, signed=True) for half in (uuid.bytes[:8], uuid.bytes[8:]))
    assert _uuid_text(confluent_kafka.Uuid(*halves)) == str(uuid)
