"""The worker that a first try would be, for comparison: the same work, one event at a time, everything by the book.

A Faust agent per event; fhir.resources judges the structure; the patient's history is a row that is read and
written; scikit-learn predicts one row; each score is an INSERT of its own and a message that is awaited.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import faust
import joblib
import numpy as np

from connectors.kafka import encounter_topics
from connectors.settings import load_settings
from schemas.history import decode_history, encode_history
from schemas.institutions import institution
from schemas.intake.event import RawEvent, parse_event
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import structure_validator
from schemas.pseudonyms import institution_keys
from schemas.topics import institution_of
from streams.decision import Event, Known, Sender, decide, patients_of

TABLES = """
DROP TABLE IF EXISTS naive_history, naive_scores;
CREATE TABLE naive_history (institution text, patient text, history bytea, PRIMARY KEY (institution, patient));
CREATE TABLE naive_scores (topic text, partition int, source_offset bigint, encounter text, probability float8);
"""


def create_app(forest_file: Path, name: str) -> faust.App:
    """Declare the agent; the tables of `TABLES` and the topic `name` are there already."""
    settings = load_settings()
    app = faust.App(
        name,
        broker=f"kafka://{settings.kafka_bootstrap_servers}",
        store="memory://",
        datadir=str(forest_file.parent),
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    encounters = app.topic(*encounter_topics(), key_serializer="raw", value_serializer="raw")
    risk = app.topic(name, value_serializer="json")
    forest = joblib.load(forest_file)
    senders = {
        topic: Sender(institution(id_), institution_keys(settings.pseudonym_key.get_secret_value(), id_))
        for topic in encounter_topics()
        for id_ in [institution_of(topic)]
    }

    @app.agent(encounters)
    async def score(events: Any) -> None:
        connection = await asyncpg.connect(settings.database_url)
        async for event in events.events():
            message = event.message
            sender = senders[message.topic]
            received = datetime.fromtimestamp(message.timestamp, UTC)
            raw = RawEvent(message.topic, message.partition, message.offset, message.key, message.value, received)
            parsed = parse_event(raw, sender.institution, Limits(), structure_validator("fhir.resources"))
            one = Event(raw, parsed, sender, "00000000-0000-0000-0000-000000000000")
            histories = {}
            for key in patients_of([one]):
                row = "SELECT history FROM naive_history WHERE institution = $1 AND patient = $2"
                held = await connection.fetchval(row, *key)
                if held is not None:
                    histories[key] = decode_history(held)
            decision = decide([one], Known(histories, {}), "naive")
            for (id_, patient), history in decision.histories.items():
                await connection.execute(
                    """INSERT INTO naive_history VALUES ($1, $2, $3)
                       ON CONFLICT (institution, patient) DO UPDATE SET history = excluded.history""",
                    id_,
                    patient,
                    encode_history(history),
                )
            for to_score in decision.to_score:
                if to_score.message is None:
                    continue
                features = np.array([to_score.message.features.vector()], dtype=np.float32)
                probability = float(forest.predict_proba(features)[0, 1])
                await connection.execute(
                    "INSERT INTO naive_scores VALUES ($1, $2, $3, $4, $5)",
                    message.topic,
                    message.partition,
                    message.offset,
                    to_score.encounter_pseudonym,
                    probability,
                )
                await risk.send(value={"encounter": to_score.encounter_id, "probability": probability})

    return app


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    faust.Worker(
        create_app(Path(sys.argv[1]), sys.argv[2]), loop=loop, loglevel="WARNING", quiet=True
    ).execute_from_commandline()
