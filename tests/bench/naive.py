"""The worker that a first try would be, for comparison: one event at a time, everything by the book."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import asyncpg
import faust
import joblib
import numpy as np
from fhir.resources.R4B.bundle import Bundle

from connectors.kafka import encounter_topics
from connectors.settings import load_settings
from schemas.features import FEATURE_NAMES


def create_app(forest_file: Path, counter_file: Path) -> faust.App:
    """Declare a Faust agent that validates, predicts, inserts and sends event by event."""
    settings = load_settings()
    app = faust.App(
        "naive",
        broker=f"kafka://{settings.kafka_bootstrap_servers}",
        store="memory://",
        datadir=str(counter_file.parent),
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    encounters = app.topic(*encounter_topics(), value_serializer="raw")
    risk = app.topic("naive.risk", value_serializer="json")
    forest = joblib.load(forest_file)

    @app.agent(encounters)
    async def score(events: Any) -> None:
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("CREATE TABLE IF NOT EXISTS naive_scores (encounter text, probability float8)")
        done = 0
        async for value in events:
            try:
                bundle = Bundle.model_validate_json(value)
            except ValueError:
                continue
            kinds = [entry.resource.__resource_type__ for entry in bundle.entry]
            row = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32)
            row[0, 2], row[0, 3] = kinds.count("Condition"), kinds.count("MedicationRequest")
            probability = float(forest.predict_proba(row)[0, 1])
            await connection.execute("INSERT INTO naive_scores VALUES ($1, $2)", str(len(kinds)), probability)
            await risk.send(value={"probability": probability})
            done += 1
            counter_file.write_text(json.dumps(done))

    return app


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = create_app(Path(sys.argv[1]), Path(sys.argv[2]))
    faust.Worker(app, loop=loop, loglevel="WARNING", quiet=True).execute_from_commandline()
