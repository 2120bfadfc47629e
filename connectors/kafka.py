"""Kafka's edges: topics and their ids, publishing with every delivery confirmed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import LatestSpec, MaxTimestampSpec, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from connectors.kafka_access import Refusal, client_properties, failure, is_not_allowed
from connectors.settings import Settings
from schemas.errors import AccessRefusedError, HealthAllianceError, UnavailableError
from schemas.institutions import institutions
from schemas.topics import TOPIC_SPECS, TopicFamily, topic_name

_K = TypeVar("_K")

_TIMEOUT_S = 15.0
_TRIES_S = (1.0, 2.0, 4.0, 8.0)  # so that a refusal is told early, and a slow broker has its time
_LOOK_S = 0.2


class OutMessage(msgspec.Struct, frozen=True, gc=False):
    """A message to be published; a value of None is a tombstone; without a partition its key says which."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


Confirmed = Callable[[int, int], None]


class Publisher:
    """An idempotent producer that reports a message as published only when all replicas have it."""

    def __init__(self, settings: Settings, *, linger_ms: int = 5) -> None:
        self._refusal = Refusal()
        self._producer = Producer(
            _producer_properties(settings, self._refusal)
            | {"linger.ms": linger_ms, "delivery.timeout.ms": 30_000, "queue.buffering.max.messages": 200_000},
            logger=_silent,
        )
        self._failed: KafkaError | None = None

    def publish(self, messages: Iterable[OutMessage]) -> None:
        """Publish and wait until every message is confirmed; raise as `flush`. Blocks."""
        self._failed = None
        for message in messages:
            self.send(message)
        self.flush()

    def send(self, message: OutMessage, confirmed: Confirmed | None = None) -> None:
        """Hand a message over; `flush` tells whether it arrived. Waits while the buffer is full.

        `confirmed` is called with the partition and offset the message got, from `send`, `poll` or `flush`.
        """

        def delivered(error: KafkaError | None, kafka_message: Message) -> None:
            partition, offset = kafka_message.partition(), kafka_message.offset()
            if error is not None:
                self._failed = error
            elif confirmed is not None and partition is not None and offset is not None:
                confirmed(partition, offset)

        while True:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers) if message.headers else None,
                    partition=-1 if message.partition is None else message.partition,
                    on_delivery=delivered,
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise failure(error.args[0], f"take a message for {message.topic}") from error
            else:
                break

    def flush(self) -> None:
        """Wait for all that was sent; raise UnavailableError or AccessRefusedError if anything failed to arrive."""
        left = self._producer.flush(_TIMEOUT_S * 3)
        failed, self._failed = self._failed, None
        if failed is None and not left:
            self._refusal.forget()
            return
        self._refusal.check()
        if failed is None:
            raise UnavailableError("Kafka did not confirm every message: time is up.")
        raise not_confirmed(failed)

    def poll(self) -> None:
        """Serve delivery reports without waiting."""
        self._producer.poll(0)


class AwaitedPublisher:
    """An idempotent producer for single messages of many coroutines, each of which awaits its own confirmation."""

    def __init__(self, settings: Settings, *, timeout_s: float = 10.0) -> None:
        """Connect lazily; what is not confirmed within `timeout_s` has failed."""
        self._refusal = Refusal()
        self._producer = Producer(
            _producer_properties(settings, self._refusal)
            | {"linger.ms": 2, "delivery.timeout.ms": int(timeout_s * 1000), "queue.buffering.max.messages": 10_000},
            logger=_silent,
        )
        self._closing = threading.Event()
        self._reports = threading.Thread(target=self._serve_reports, name="kafka-delivery-reports", daemon=True)
        self._reports.start()

    async def publish(self, message: OutMessage) -> tuple[int, int]:
        """Publish one message; return its partition and offset once all replicas have it.

        Raises UnavailableError where it is not confirmed, or where too many wait already; it may arrive nevertheless.
        Raises AccessRefusedError where Kafka does not let this user in, or not publish.
        """
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[tuple[int, int]] = loop.create_future()

        def delivered(error: KafkaError | None, kafka_message: Message) -> None:
            failed = self._failure(error) if error else None
            loop.call_soon_threadsafe(_settle, confirmed, failed, kafka_message.partition(), kafka_message.offset())

        try:
            self._producer.produce(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                on_delivery=delivered,
            )
        except BufferError as error:
            raise UnavailableError("Too many messages wait for Kafka.") from error
        except KafkaException as error:
            raise failure(error.args[0], f"take a message for {message.topic}") from error
        return await confirmed

    def _failure(self, error: KafkaError) -> HealthAllianceError:
        try:
            self._refusal.check()
        except AccessRefusedError as refusal:
            return refusal
        return not_confirmed(error)

    def close(self) -> None:
        """Wait for what is on its way, then end."""
        self._producer.flush(_TIMEOUT_S)
        self._closing.set()
        self._reports.join()

    def _serve_reports(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(0.1)


def _settle(
    confirmed: asyncio.Future[tuple[int, int]],
    failed: HealthAllianceError | None,
    partition: int | None,
    offset: int | None,
) -> None:
    if confirmed.done():
        return  # its coroutine was cancelled
    if failed is not None or partition is None or offset is None:
        confirmed.set_exception(failed or UnavailableError("Kafka did not confirm: no offset."))
    else:
        confirmed.set_result((partition, offset))


def not_confirmed(error: KafkaError) -> HealthAllianceError:
    """Return the error to raise where messages were not confirmed."""
    if is_not_allowed(error):
        return failure(error, "take every message")
    return UnavailableError(f"Kafka did not confirm every message: {error.str()}.")


def _producer_properties(settings: Settings, refusal: Refusal) -> dict[str, Any]:
    return client_properties(settings) | {
        "error_cb": refusal,
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "message.max.bytes": 16 * 1024 * 1024,
        "log_level": 3,
    }


class TopicActivity(NamedTuple):
    """What a topic has received: messages since a moment, and the time of its newest one (UTC), None if it is empty."""

    messages: int
    newest_at: datetime | None


def topic_activity(settings: Settings, topic: str, since: datetime) -> TopicActivity:
    """Tell how many messages a topic received from `since` on; raise UnavailableError without an answer. Blocks."""
    admin = Admin(settings)
    partitions = _partitions(admin, [topic])
    ends = _offsets(admin, partitions, LatestSpec())  # type: ignore[no-untyped-call]
    newest = _offsets(admin, partitions, MaxTimestampSpec())  # type: ignore[no-untyped-call]
    starts = _offsets(admin, partitions, OffsetSpec.for_timestamp(int(since.timestamp() * 1000)))
    messages = sum(ends[one].offset - start.offset for one, start in starts.items() if start.offset >= 0)
    newest_ms = max((one.timestamp for one in newest.values()), default=-1)
    return TopicActivity(messages, datetime.fromtimestamp(newest_ms / 1000, UTC) if newest_ms > 0 else None)


def ensure_topics(settings: Settings, needed: Collection[str] | None = None) -> list[str]:
    """Create the topics that are missing, all or of the `needed` ones alone, and return their names.

    Raises UnavailableError where Kafka does not answer, AccessRefusedError where this user may not create topics.
    """
    admin = Admin(settings)
    present = admin.topics().keys()
    missing = [
        NewTopic(
            topic_name(family, id_),
            num_partitions=settings.topic_partitions,
            replication_factor=settings.kafka_replication_factor,
            config=spec.config,
        )
        for family, spec in TOPIC_SPECS.items()
        for id_ in institutions()
        if topic_name(family, id_) not in present and (needed is None or topic_name(family, id_) in needed)
    ]
    if missing:
        for name, future in admin.client.create_topics(missing, operation_timeout=_TIMEOUT_S).items():
            admin.answer(future, f"create topic {name}")
    return [topic.topic for topic in missing]


def present_topics(settings: Settings) -> set[str]:
    """List the topics that the broker shows to this user; raise UnavailableError where it does not answer."""
    return set(Admin(settings).topics())


def topic_ids(settings: Settings, topics: Sequence[str]) -> dict[str, str]:
    """Return each topic's id, which a topic made anew under the same name does not share."""
    return Admin(settings).topic_ids(topics)


def end_offsets(settings: Settings, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """Return the offset that each partition's next message will get."""
    return Admin(settings).end_offsets(topics)


def group_members(settings: Settings, group: str) -> int:
    """Count the members that a consumer group has now; raise UnavailableError where Kafka does not answer."""
    admin = Admin(settings)
    # Asked once, unlike in `answers`: a question to a group's coordinator that is cut short may abort the whole process
    # (https://github.com/confluentinc/librdkafka/issues/4605).
    [future] = admin.client.describe_consumer_groups([group], request_timeout=_TIMEOUT_S).values()
    return len(admin.answer(future, "describe the consumer group").members)


def _partitions(admin: Admin, topics: Iterable[str]) -> list[TopicPartition]:
    wanted = set(topics)
    return [
        TopicPartition(name, number)
        for name, topic in admin.topics().items()
        if name in wanted
        for number in topic.partitions
    ]


def _offsets(admin: Admin, partitions: Sequence[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, Any]:
    asked = dict.fromkeys(partitions, spec)
    return admin.answers(lambda s: admin.client.list_offsets(asked, request_timeout=s), lambda _: "list offsets")


def encounter_topics() -> list[str]:
    """Name the topics that hospitals publish to."""
    return [topic_name(TopicFamily.ENCOUNTERS, id_) for id_ in institutions()]


def _uuid_text(topic_id: Any) -> str:
    number = (topic_id.get_most_significant_bits() % 2**64 << 64) | topic_id.get_least_significant_bits() % 2**64
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Admin:
    """An administrative client that tells a refusal from silence."""

    def __init__(self, settings: Settings) -> None:
        self._refusal = Refusal()
        self.client = AdminClient(
            client_properties(settings) | {"error_cb": self._refusal, "log_level": 0}, logger=_silent
        )

    def topics(self) -> dict[str, Any]:
        """Return what the broker tells of each topic; raise UnavailableError or AccessRefusedError."""
        for timeout_s in _TRIES_S:
            try:
                return dict(self.client.list_topics(timeout=timeout_s).topics)
            except KafkaException:
                self._look()
        raise self._refusal.unavailable()

    def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """Return each topic's id, which a topic made anew under the same name does not share."""
        asked = TopicCollection(list(topics))
        described = self.answers(
            lambda s: self.client.describe_topics(asked, request_timeout=s), "describe topic {}".format
        )
        return {name: _uuid_text(topic.topic_id) for name, topic in described.items()}

    def end_offsets(self, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """Return the offset that each partition's next message will get."""
        found = _offsets(self, _partitions(self, topics), LatestSpec())  # type: ignore[no-untyped-call]
        return {(one.topic, one.partition): at.offset for one, at in found.items()}

    def answers(self, ask: Callable[[float], Mapping[_K, Any]], what: Callable[[_K], str]) -> dict[_K, Any]:
        """Ask with a time-out in seconds until all is answered; raise UnavailableError or AccessRefusedError.

        librdkafka asks a broker that is gone until the time is up, which keeps a processor busy, though another leads
        by then. So the first times are short, and the brokers are looked up anew after each.
        """
        for timeout_s in _TRIES_S:
            try:
                return {one: self.answer(future, what(one)) for one, future in ask(timeout_s).items()}
            except UnavailableError:
                self.topics()
        raise self._refusal.unavailable()

    def answer(self, future: Any, what: str) -> Any:
        """Wait for an answer, None where a topic was there already; raise UnavailableError or AccessRefusedError."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                self._look()
                if time.monotonic() > deadline:
                    raise self._refusal.unavailable() from None
            except KafkaException as error:
                self._look()
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return None
                raise failure(error.args[0], what) from error

    def _look(self) -> None:
        self.client.poll(0)
        self._refusal.check()


class _Silent:
    """librdkafka's own log lines; what matters comes back as errors."""

    def log(self, *_: object, **__: object) -> None:
        """Drop it."""

    debug = info = warning = error = critical = log


_silent: Any = _Silent()
