"""Scores of chosen bands, as a worker leaves them; receivers of alerts; the alerting process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import asyncpg

from connectors.kafka import OutMessage, Publisher
from connectors.registry import Registry, to_wire
from connectors.settings import Settings, settings_environment
from connectors.store import SCORE_COLUMNS, _score_row
from healthalliance.progress import fetch
from schemas.features import Features
from schemas.messages import RiskScore
from schemas.topics import TopicFamily, topic_name
from tests.integration.running import wait_until

PROBABILITIES = {"low": 0.05, "medium": 0.2, "high": 0.4}
_FEATURES = Features(80.0, 0.0, 4.0, 6.0, 3.0, 3.0, 1.0, 9.0, 1.0)
_CONTRIBUTIONS = {"prior_inpatient_stays_365d": 0.13, "num_conditions": 0.06, "age_years": 0.04,
                  "emergency_admission": 0.02, "length_of_stay_days": -0.03}  # fmt: skip


@dataclass(slots=True, eq=False)
class Stay:
    """An encounter of which scores are made, one after the other."""

    institution: str
    patient: str = field(default_factory=lambda: str(uuid4()))
    encounter: str = field(default_factory=lambda: str(uuid4()))
    last: RiskScore | None = None

    def scored(self, band: str | None, probability: float | None = None, *, at: datetime | None = None) -> RiskScore:
        """Make its next score; band None retracts it."""
        at = at or datetime.now(UTC)
        if band and probability is None:
            probability = PROBABILITIES[band]
        before = self.last
        self.last = RiskScore(
            record_id=str(uuid4()),
            institution=self.institution,
            patient_reference=f"Patient/{self.patient[:8]}",
            encounter_reference=f"Encounter/{self.encounter[:8]}",
            patient_pseudonym=self.patient,
            encounter_pseudonym=self.encounter,
            encounter_version="version_id:1",
            status="entered-in-error" if band is None else "amended" if before else "final",
            inpatient=True,
            as_of=at,
            received_at=at,
            scored_at=at,
            probability=probability if band else None,
            band=band,
            baseline=0.1 if band else None,
            contributions=_CONTRIBUTIONS if band else {},
            features=_FEATURES if band else None,
            feature_set=1,
            model_name="readmission-risk",
            model_version="1",
            model_digest="0" * 64,
            supersedes=before.record_id if before else None,
            reason="encounter-updated" if before else None,
            topic_id="00000000-0000-0000-0000-00000000000a",
            source_partition=0,
            source_offset=before.source_offset + 1 if before else 0,
        )
        return self.last


class Scores:
    """Writes scores as a worker does: into the table first, then onto the topic."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        registry = Registry(settings.schema_registry_url)
        self._ids = registry.register_all()
        registry.close()
        self._publisher = Publisher(settings)

    def add(self, *scores: RiskScore) -> None:
        """Store and publish scores."""
        self.store(*scores)
        self.publish(*scores)

    def store(self, *scores: RiskScore) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.settings.database_url)
            try:
                months = {one.received_at.date().replace(day=1) for one in scores}
                for month in months:
                    await connection.execute("SELECT ensure_risk_score_partitions($1, 1)", month)
                await connection.copy_records_to_table(
                    "risk_scores", records=map(_score_row, scores), columns=SCORE_COLUMNS
                )
            finally:
                await connection.close()

        asyncio.run(run())

    def publish(self, *scores: RiskScore) -> None:
        topics = [topic_name(TopicFamily.RISK, one.institution) for one in scores]
        self._publisher.publish(
            OutMessage(topic, one.patient_reference.encode(), to_wire(self._ids[topic], one))
            for topic, one in zip(topics, scores, strict=True)
        )

    def publish_raw(self, institution: str, value: bytes | None) -> None:
        self._publisher.publish([OutMessage(topic_name(TopicFamily.RISK, institution), b"Patient/x", value)])


# --- receivers


@dataclass(frozen=True, slots=True)
class Posted:
    """A request that a receiver got."""

    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Act = Callable[[int], "int | None"]  # which request, from 0 → the status to answer with, None: never answer


class Receiver:
    """An HTTP server on a port of its own that keeps what is posted and answers as it is told."""

    def __init__(self, act: Act = lambda _: 200, headers: Mapping[str, str] | None = None) -> None:
        self.posted: list[Posted] = []
        self.act, self.headers = act, headers or {}
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(length := int(self.headers["Content-Length"]))
                if len(body) < length:  # who sent it was killed meanwhile
                    return
                receiver.posted.append(Posted(dict(self.headers.items()), body))
                status = receiver.act(len(receiver.posted) - 1)
                if status is None:
                    receiver._closing.wait(60)
                    return
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def records(self) -> list[str]:
        """Name the scores that were told, in order."""
        return [one.document["record_id"] for one in self.posted]

    def wait_for(self, number: int, timeout_s: float = 90.0) -> None:
        wait_until(f"{number} alerts came", lambda: len(self.posted) >= number, timeout_s)


# --- the process


class Alerts:
    """`healthalliance alerts` as a process, stopped at the end."""

    def __init__(self, settings: Settings, *arguments: object) -> None:
        self._settings, self._arguments = settings, arguments
        self.log = Path(settings.data_dir) / "logs" / f"alerts-{uuid4()}.log"
        self.exit_code: int | None = None

    def __enter__(self) -> Alerts:
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "healthalliance", "alerts", "--metrics-port", "0", *map(str, self._arguments)],
                env={**os.environ, **settings_environment(self._settings)},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        self.exit_code = self._process.wait(30)
        return self.exit_code

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if kind is not None:
            print(self.log.read_text()[-4000:])


def alerts_of(settings: Settings, channel: str) -> list[dict[str, Any]]:
    """Read a channel's alerts, in the order they were decided."""
    rows = fetch(settings, "SELECT * FROM alerts WHERE channel = $1 ORDER BY decided_at, probability DESC", channel)
    return [{name: str(value) if name.endswith("_id") else value for name, value in row.items()} for row in rows]


def mark(settings: Settings, stay: Stay, *, snoozed_until: datetime | None = None, seen: str | None = None) -> None:
    """Put a mark on the worklist, in place of the one that is there."""
    fetch(
        settings,
        """INSERT INTO worklist_marks (institution, encounter_pseudonym, patient_pseudonym, acknowledged_record_id,
                                       acknowledged_at, snoozed_until, updated_at)
           VALUES ($1, $2, $3, $4::uuid, CASE WHEN $4::uuid IS NOT NULL THEN now() END, $5, now())
           ON CONFLICT (institution, encounter_pseudonym) DO UPDATE SET
               acknowledged_record_id = excluded.acknowledged_record_id, snoozed_until = excluded.snoozed_until""",
        stay.institution, stay.encounter, stay.patient, seen, snoozed_until,
    )  # fmt: skip
