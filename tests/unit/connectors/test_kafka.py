"""What needs no broker of Kafka's edges."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka import Admin, _uuid_text
from connectors.settings import Settings
from schemas.errors import UnavailableError


@given(st.uuids())
def test_a_topics_id_is_written_as_the_uuid_it_is(uuid: UUID) -> None:
    # Kafka hands its two halves over as signed numbers, as Java keeps them.
    halves = (int.from_bytes(half, signed=True) for half in (uuid.bytes[:8], uuid.bytes[8:]))
    assert _uuid_text(confluent_kafka.Uuid(*halves)) == str(uuid)


class Cluster:
    """Asks a broker that is gone as long as it has not looked up who is there, as librdkafka does."""

    def __init__(self, *, comes_back: bool) -> None:
        self.knows, self.comes_back = False, comes_back
        self.time_outs: list[float] = []

    def list_topics(self, timeout: float) -> Any:
        self.knows = self.comes_back
        return SimpleNamespace(topics={})

    def describe_topics(self, asked: Any, request_timeout: float) -> dict[str, Future[Any]]:
        self.time_outs.append(request_timeout)
        future: Future[Any] = Future()
        if self.knows:
            future.set_result(SimpleNamespace(topic_id=confluent_kafka.Uuid(0, 7)))
        else:
            future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
        return {"encounters.embl": future}

    def poll(self, _: float) -> None:
        pass


def admin(cluster: Cluster) -> Admin:
    one = Admin(Settings(_env_file=None, kafka_bootstrap_servers="127.0.0.1:1"))
    one.client = cluster  # type: ignore[assignment]
    return one


def test_a_broker_that_is_gone_is_asked_for_a_second_and_then_another() -> None:
    cluster = Cluster(comes_back=True)
    assert admin(cluster).topic_ids(["encounters.embl"]) == {"encounters.embl": str(UUID(int=7))}
    assert cluster.time_outs == [1.0, 2.0]


def test_where_no_broker_answers_that_is_said_after_15_seconds() -> None:
    cluster = Cluster(comes_back=False)
    with pytest.raises(UnavailableError):
        admin(cluster).topic_ids(["encounters.embl"])
    assert sum(cluster.time_outs) == 15.0
