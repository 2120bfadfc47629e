"""The demonstration: simulated history, a model trained on it, live events scored with it."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from connectors.kafka import ensure_topics
from connectors.migrate import migrate
from connectors.settings import Settings
from connectors.simulator import simulate
from connectors.source_event import SourceEvent
from healthalliance import local_stack
from healthalliance.api_process import ApiProcess
from healthalliance.local_stack import DEFAULT_PORTS, Ports, Say
from healthalliance.progress import OUTCOMES, Progress, fetch, read_progress, wait_until_applied
from healthalliance.publishing import Ledger, publish_events
from healthalliance.reports import progress_table, risk_table
from healthalliance.training import show_training
from healthalliance.workers import WorkerOptions, WorkerProcesses
from model_training.job import Options, TrainingResult, train
from schemas.access import API, TRAINER, WORKER, institution_user
from schemas.errors import UnavailableError
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name

_EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
_HISTORY_UNTIL = datetime(2025, 1, 1, tzinfo=UTC)
_LIVE_UNTIL = _HISTORY_UNTIL + timedelta(days=45)
_PATIENTS = 500  # of each institution: some 3,600 stays in all to train on
_LIVE_EVENTS_PER_S = 70.0  # of each institution
_READY_S = 180.0


@dataclass(frozen=True, slots=True)
class _Live:
    published: dict[str, int]
    progress: dict[str, Progress]
    ledger: Ledger


def run_demo(settings: Settings, *, once: bool, seed: int, out: Console) -> dict[str, Any]:
    """Show the whole way and return its figures; unless `once`, leave all up until interrupted."""
    settings = local_stack.apart(settings, settings.data_dir / "demo")
    started = time.monotonic()
    with fresh_stack(settings, lambda text: out.print(text, highlight=False)) as running:
        trained = _train_on_history(running, seed, out)
        with WorkerProcesses(local_stack.as_user(running, WORKER), _options(running, history_only=False)) as workers:
            wait_until_ready(workers)
            live = _stream_live(running, seed, out)
            report = _report(running, live, trained, time.monotonic() - started)
            _show(live, report, out)
            if not once:
                with ApiProcess(local_stack.as_user(running, API)) as api:
                    _say_where(running, api, out)
                    _stay(workers, out)
    if once:
        _say_what_is_left(running, out)
    return report


@contextmanager
def fresh_stack(
    settings: Settings, say: Say, ports: Ports = DEFAULT_PORTS, *, secured: bool = True
) -> Iterator[Settings]:
    """Run a stack from an empty data folder, with its topics and tables, and stop it at the end."""
    local_stack.down(settings)
    shutil.rmtree(settings.data_dir, ignore_errors=True)
    try:
        running = local_stack.up(settings, say, ports, secured=secured)
        ensure_topics(running)
        migrate(running.database_url)
        yield running
    finally:
        local_stack.down(settings)


def _options(settings: Settings, *, history_only: bool) -> WorkerOptions:
    return WorkerOptions(1, history_only, settings.data_dir / "logs" / "worker.log")


def _train_on_history(settings: Settings, seed: int, out: Console) -> TrainingResult:
    out.print(f"Simulating three years of {_PATIENTS} patients at each of {', '.join(institutions())}")
    with WorkerProcesses(local_stack.as_user(settings, WORKER), _options(settings, history_only=True)):
        published = _publish(settings, _simulated(seed, _EPOCH, _HISTORY_UNTIL), None, None)
        wait_until_applied(settings, _READY_S)
    out.print(f"{sum(published.values()):,} events of history published and folded; training on their features")
    trainer = local_stack.as_user(settings, TRAINER)
    result = train(trainer, seed, options=Options(note="The patients are simulated (make demo)."))
    show_training(result, out)
    return result


def _publish(
    settings: Settings, events: Mapping[str, Iterable[SourceEvent]], ledger: Ledger | None, events_per_s: float | None
) -> dict[str, int]:
    def publish(institution: str) -> int:
        hospital = local_stack.as_user(settings, institution_user(institution))
        return publish_events(hospital, institution, events[institution], ledger=ledger, events_per_s=events_per_s)

    with ThreadPoolExecutor(len(events)) as pool:
        return dict(zip(events, pool.map(publish, events), strict=True))


def _simulated(seed: int, start: datetime, until: datetime) -> dict[str, Iterator[SourceEvent]]:
    return {id_: simulate(id_, seed, _PATIENTS, start, until, epoch=_EPOCH) for id_ in institutions()}


def _stream_live(settings: Settings, seed: int, out: Console) -> _Live:
    # Simulated before the first is sent, or the first would come late and then all at once.
    events = {id_: list(some) for id_, some in _simulated(seed, _HISTORY_UNTIL, _LIVE_UNTIL).items()}
    out.print("Streaming the next weeks live")
    before = read_progress(settings)
    ledger = Ledger()
    published = _publish(settings, events, ledger, _LIVE_EVENTS_PER_S)
    after = wait_until_applied(settings, _READY_S)
    return _Live(published, {id_: _since(before[id_], after[id_]) for id_ in after}, ledger)


def _since(before: Progress, after: Progress) -> Progress:
    return Progress({one: after.outcomes[one] - before.outcomes[one] for one in OUTCOMES}, after.waiting)


def wait_until_ready(workers: WorkerProcesses) -> None:
    """Wait until each worker consumes; raise UnavailableError if that takes more than three minutes."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        workers.watch()
        try:
            for port in workers.ports():
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UnavailableError("The workers did not get ready; look at the worker's log.")


def _report(settings: Settings, live: _Live, trained: TrainingResult, seconds: float) -> dict[str, Any]:
    return {
        "institutions": {id_: {"published": live.published[id_], **one.outcomes} for id_, one in live.progress.items()},
        "model": {"version": trained.version, "auroc": trained.evaluation.auroc, "brier": trained.evaluation.brier},
        "highest_risks": highest_risks(settings),
        "latency_ms": latencies_ms(settings, live.ledger),
        "seconds": round(seconds, 1),
    }


def highest_risks(settings: Settings, most: int = 8) -> list[dict[str, Any]]:
    """Read the highest current risks of inpatient stays."""
    rows = fetch(settings, _HIGHEST, most)
    return [
        {**row, "features": json.loads(row["features"]), "contributions": json.loads(row["contributions"])}
        for row in map(dict, rows)
    ]


def latencies_ms(settings: Settings, ledger: Ledger) -> dict[str, float]:
    """Measure from handing an event over to the commit of its row, as PostgreSQL stamped it, in milliseconds."""
    names = {topic_name(TopicFamily.ENCOUNTERS, id_): id_ for id_ in institutions()}
    handed_over = {
        (names[topic], partition, offset): at for (topic, partition, offset), at in ledger.published_at.items()
    }
    taken = sorted(
        1000 * (row["committed_at"].timestamp() - at)
        for row in fetch(settings, _COMMITS)
        if (at := handed_over.get((row["institution"], row["source_partition"], row["source_offset"]))) is not None
    )
    return {f"p{share}": round(_percentile(taken, share / 100), 1) for share in (50, 90, 99)} if taken else {}


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _show(live: _Live, report: Mapping[str, Any], out: Console) -> None:
    out.print(progress_table(live.progress, live.published))
    out.print(risk_table(report["highest_risks"]))
    shown = ", ".join(f"{name} {value:.0f} ms" for name, value in report["latency_ms"].items())
    out.print(f"From publishing to the committed row: {shown}.")
    out.print(f"All of it took {report['seconds']:.0f} s. Where to look next:")


def _say_where(settings: Settings, api: ApiProcess, out: Console) -> None:
    psql = local_stack.psql_command(settings)
    out.print(f"  scores    {psql} -c '{_LOOK}'", soft_wrap=True)
    out.print(f"  worklist  {api.url}/  (sign in with a key of {local_stack.api_keys_file(settings)})", soft_wrap=True)
    out.print(f"  API       {api.url}/docs", soft_wrap=True)
    out.print(f"  metrics   http://127.0.0.1:{settings.metrics_port}/metrics")
    _say_files(settings, out)


def _say_what_is_left(settings: Settings, out: Console) -> None:
    _say_files(settings, out)
    out.print(
        f"  stack     DATA_DIR={settings.data_dir} healthalliance up  (it is stopped; its data stay)", soft_wrap=True
    )


def _say_files(settings: Settings, out: Console) -> None:
    out.print(f"  log       {settings.data_dir / 'logs' / 'worker.log'}", soft_wrap=True)
    out.print(f"  models    mlflow ui --backend-store-uri {settings.mlflow_tracking_uri}", soft_wrap=True)


def _stay(workers: WorkerProcesses, out: Console) -> None:
    out.print("Everything stays up until Ctrl-C.")
    try:
        while True:
            workers.watch()
            time.sleep(0.5)
    except KeyboardInterrupt:
        out.print("Stopping.")


_LOOK = (
    "SELECT institution, patient_pseudonym, probability, band FROM latest_risk WHERE inpatient ORDER BY 3 DESC LIMIT 10"
)

_HIGHEST = """
SELECT institution, patient_pseudonym::text, probability, band, features, contributions
FROM risk_scores
WHERE superseded_by IS NULL AND status <> 'entered-in-error' AND inpatient
ORDER BY probability DESC, record_id LIMIT $1
"""

_COMMITS = """
SELECT institution, source_partition, source_offset, pg_xact_commit_timestamp(xmin) AS committed_at
FROM risk_scores WHERE superseded_by IS NULL
"""
