"""Erase patients from every store, for good, and certify it.

The stream erases when a patient's deletion comes (docs/hospitals.md). Here that event is published, and once it is
applied and acknowledged, what the stream leaves is cleared away: rows that came after it, pseudonyms that were kept for
sending tombstones again, rejections, snapshots on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from connectors.kafka import OutMessage, Publisher, end_offsets, topic_ids
from connectors.patient_records import keyed_records
from connectors.patient_rows import clear_away, clear_rejections
from connectors.ranges import Partition, committed_offsets
from connectors.settings import Settings
from healthalliance.erased_files import clear_files
from healthalliance.erasure_certificate import Times, certificate
from healthalliance.patient_search import Found, look, look_again, people_of, with_database
from healthalliance.progress import fetch
from healthalliance.training_ledger import registered_models, trained_on
from schemas.erasure import Event, Future, private_key, signed_certificate
from schemas.errors import ConfigurationError, UnavailableError
from schemas.intake.event import FUTURE
from schemas.topics import TopicFamily, topic_name

_LOOK_S = 0.25

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """Whom to erase, by the institution's own ids; `future` None leaves it as it was, which is accepted at first.

    snapshots: folders below which exported snapshots lie, beside DATA_DIR. timeout_s: how long all may stand still.
    """

    institution: str
    patient_ids: Sequence[str]
    future: Future | None = None
    snapshots: Sequence[Path] = ()
    timeout_s: float = 120.0


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """Read the key that signs certificates; raise ConfigurationError where there is none."""
    if not settings.erasure_key_location:
        raise ConfigurationError(
            "ERASURE_KEY_LOCATION must name an Ed25519 key: make one with `openssl genpkey -algorithm ed25519`."
        )
    try:
        return private_key(Path(settings.erasure_key_location).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"ERASURE_KEY_LOCATION cannot be read: {error.strerror}.") from error


def erase(settings: Settings, order: Order, on_step: OnStep = lambda _: None) -> list[dict[str, Any]]:
    """Erase patients and return a signed certificate for each, in the order given.

    Workers must run. What is found is noted first, and nothing is changed before all of it is known. Raises
    ConfigurationError without the keys, UnavailableError where a store does not answer or no worker applies the event;
    another run then goes on where this one ended.
    """
    key = signing_key(settings)
    people = people_of(settings, order.institution, order.patient_ids)
    begun = datetime.now(UTC)
    on_step("waiting for what was sent before")
    topic = topic_name(TopicFamily.ENCOUNTERS, order.institution)
    wait_until_reached(settings, topic, end_offsets(settings, [topic]), order.timeout_s)
    on_step("looking into every store")
    before, read_to = look(settings, people, order.snapshots)
    registered = registered_models(settings) if any(one.encounters for one in before) else []
    to_erase = [one for one in before if _has_work(one, order.future)]
    events: dict[str, Event] = {}
    if to_erase:
        on_step("publishing, and waiting until the workers have done their part")
        events = _publish(settings, topic, to_erase, order.future)
        places = sorted((one.topic, one.partition, one.offset) for one in events.values())
        ends = {(name, partition): offset + 1 for name, partition, offset in places}  # the last of each partition
        wait_until_reached(settings, topic, ends, order.timeout_s, acknowledged=True)
        on_step("clearing away what is left")
        _require_tombstones(settings, to_erase, read_to)
        _clear(settings, to_erase)
    left = look_again(settings, to_erase, order.snapshots) if to_erase else []
    after = {one.person.id: one for one in left}
    times = Times(begun, datetime.now(UTC))
    return [
        signed_certificate(
            certificate(
                one,
                after.get(one.person.id),
                events.get(one.person.id),
                models=trained_on(one, registered),
                future=order.future,
                times=times,
            ),
            key,
        )
        for one in before
    ]


# --- waiting


def wait_until_reached(
    settings: Settings, topic: str, ends: Mapping[Partition, int], timeout_s: float, *, acknowledged: bool = False
) -> None:
    """Wait until partitions are applied, or acknowledged too, up to offsets; raise UnavailableError at a standstill."""
    topic_id = topic_ids(settings, [topic])[topic]
    last, moved_at = -1, time.monotonic()
    while True:
        rows = fetch(
            settings, "SELECT source_partition, next_offset FROM stream_progress WHERE topic_id = $1", topic_id
        )
        reached = {(topic, row["source_partition"]): row["next_offset"] for row in rows}
        if acknowledged:
            committed = committed_offsets(settings, settings.consumer_group, [topic])
            reached = {one: min(offset, committed.get(one, 0)) for one, offset in reached.items()}
        if all(reached.get(one, 0) >= end for one, end in ends.items()):
            return
        if (now := sum(reached.values())) != last:
            last, moved_at = now, time.monotonic()
        elif time.monotonic() - moved_at > timeout_s:
            raise UnavailableError(
                f"No event of {topic} was applied for {timeout_s:.0f} s: do workers run, and is the intake open? "
                "Erase again then; it goes on where it ended."
            )
        time.sleep(_LOOK_S)


# --- acting


def _has_work(one: Found, future: Future | None) -> bool:
    return any(one.stores.values()) or (future is not None and one.refused != (future is Future.REFUSE))


def _publish(settings: Settings, topic: str, found: Iterable[Found], future: Future | None) -> dict[str, Event]:
    """Publish the deletions and return where they are, by patient id, once all are confirmed."""
    publisher, events = Publisher(settings), dict[str, Event]()
    headers = ((FUTURE, future.encode()),) if future else ()
    for one in found:

        def note(partition: int, offset: int, id_: str = one.person.id) -> None:
            events[id_] = Event(topic, partition, offset)

        publisher.send(OutMessage(topic, f"Patient/{one.person.id}".encode(), None, headers), note)
    publisher.flush()
    return events


def _require_tombstones(settings: Settings, found: Sequence[Found], since: Mapping[Partition, int]) -> None:
    """Raise UnavailableError where records that were found were not taken back: their pseudonyms are needed then."""
    live = {
        TopicFamily.FEATURES: [name for one in found for name, keyed in one.features.items() if keyed.live],
        TopicFamily.RISK: [f"Patient/{one.person.id}" for one in found if one.risk.live],
    }
    for family, keys in live.items():
        topic, wanted = topic_name(family, found[0].person.institution), {key.encode() for key in keys}
        since_then, _ = keyed_records(settings, topic, wanted, since)
        if missing := wanted - {key for key, one in since_then.items() if one.was_gone}:
            raise UnavailableError(f"{len(missing)} records of patients are still on {topic}: erase again.")


def _clear(settings: Settings, found: Sequence[Found]) -> None:
    async def act(connection: asyncpg.Connection[Any]) -> None:
        for one in found:
            await clear_away(connection, one.person)
            await clear_rejections(connection, one.rejections.own)

    with_database(settings, act)
    clear_files(found[0].person.institution, [one.person.pseudonym for one in found], [one.files for one in found])
