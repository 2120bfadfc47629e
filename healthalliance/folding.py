"""Fold a log by the stream's own processor, publishing nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from cryptography.exceptions import InvalidTag

from connectors.pseudonym_keys import read_keys
from connectors.ranges import LogRecord
from connectors.settings import Settings
from connectors.store import Store
from schemas.errors import ConfigurationError
from schemas.institutions import institution as find_institution
from schemas.intake.structure import structure_validator
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Sender
from streams.processor import Processor


def sender_of(settings: Settings, institution_id: str) -> Sender:
    """Return an institution with its keys in force; raise as `connectors.pseudonym_keys.read_keys`."""
    keys, other = read_keys(settings, [institution_id])[institution_id]
    return Sender(find_institution(institution_id), keys, other)


def require_key(sender: Sender, patient_pseudonym: str, sealed: bytes) -> None:
    """Raise ConfigurationError where a stored history is sealed with another key than the sender's."""
    try:
        sender.keys.unseal(sealed, patient_pseudonym)
    except InvalidTag:
        raise ConfigurationError("PSEUDONYM_KEY is not the one that the live histories are sealed with.") from None


def folding_processor(settings: Settings, topic_id: str, store: Store, sender: Sender) -> Processor:
    """Make a processor of one institution's events that only reads and applies; it has no model yet."""
    topic = topic_name(TopicFamily.ENCOUNTERS, sender.institution.id)
    processor = Processor(
        senders={topic: sender},
        limits=settings.event_limits,
        validate=structure_validator(settings.structure_validator),
        store=store,
        publisher=None,
        schema_ids={},
        retry_timeout_s=settings.retry_timeout_s,
    )
    processor.topic_ids = {topic: topic_id}
    return processor


async def read_ahead(processor: Processor, records: Iterator[LogRecord], most: int) -> AsyncIterator[list[Event]]:
    """Yield batches of at most `most` events; each is read while the one before is worked on."""

    async def read() -> list[Event]:
        batch = await asyncio.to_thread(list, islice(records, most))
        return await processor.read(batch)

    ahead = asyncio.create_task(read())
    try:
        while batch := await ahead:
            ahead = asyncio.create_task(read())
            yield batch
    finally:
        await asyncio.wait([ahead])  # a thread may be reading still
