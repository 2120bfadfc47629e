"""The command line. Every command takes `--json` and then prints one JSON document on stdout.

Exit codes: 0 done; 1 something is invalid or not healthy; 2 wrong usage; others as in `schemas.errors`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from connectors.settings import Settings, load_settings
from healthalliance.acl_cli import app as acl_app
from healthalliance.alerts_cli import app as alerts_app
from healthalliance.api_cli import make_api_key, serve_api
from healthalliance.audit_cli import app as audit_app
from healthalliance.console import TRAINING_PARTS, InstitutionId, Json, connected, err, out, print_json
from healthalliance.explain_cli import explain
from healthalliance.export_cli import app as export_app
from healthalliance.federated_cli import app as federated_app
from healthalliance.federated_cli import show_federated
from healthalliance.model_cli import app as model_app
from healthalliance.patient_cli import erase, export_patient, verify_erasure
from healthalliance.preparing_cli import migrate as migrate_tables
from healthalliance.preparing_cli import topics_app
from healthalliance.pseudonym_cli import app as pseudonym_app
from healthalliance.rebuild_cli import rebuild
from healthalliance.rejected_cli import app as rejected_app
from healthalliance.report_cli import report
from healthalliance.snapshot_cli import app as snapshot_app
from schemas.access import TRAINER, WORKER, institution_user
from schemas.audit import EVERYBODY, Action
from schemas.errors import HealthAllianceError
from schemas.institutions import institution as find_institution
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Readmission risk from FHIR R4 encounter events. Institutions: " + ", ".join(institutions()) + ".",
)
intake_app = typer.Typer(no_args_is_help=True, help="Stopped intakes.")
app.command("explain")(explain)
app.command("rebuild")(rebuild)
app.command("erase")(erase)
app.command("verify-erasure")(verify_erasure)
app.command("export-patient")(export_patient)
app.command("api")(serve_api)
app.command("api-key")(make_api_key)
app.command("migrate")(migrate_tables)
app.add_typer(topics_app, name="topics")
app.add_typer(acl_app, name="acl")
app.add_typer(alerts_app, name="alerts")
app.add_typer(audit_app, name="audit")
app.add_typer(intake_app, name="intake")
app.add_typer(export_app, name="export")
app.add_typer(federated_app, name="federated")
app.add_typer(pseudonym_app, name="pseudonym")
app.add_typer(rejected_app, name="rejected")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(model_app, name="model")
app.command()(report)


class Dataset(StrEnum):
    """Research data sets that can be published."""

    DIABETES130 = "diabetes130"


Files = Annotated[list[Path], typer.Argument(help="FHIR JSON, NDJSON, Bundles, .gz of them, archives or folders.")]


@app.command()
def validate(
    files: Files,
    institution: Annotated[str, typer.Option("--institution", "-i", help="Whose rules apply.")] = "dkfz",
    as_json: Json = False,
) -> None:
    """Judge each resource as the stream would; exit with 1 if any is invalid."""
    from healthalliance.files import validate_files

    verdicts = validate_files(files, find_institution(institution), load_settings())
    if as_json:
        found = list(verdicts)
        print_json(found)
        invalid = sum(not one["valid"] for one in found)
    else:
        invalid = sum(_print_verdict(one) for one in verdicts)
        out.print(f"{invalid} invalid." if invalid else "All are valid.")
    raise typer.Exit(1 if invalid else 0)


def _print_verdict(one: dict[str, Any]) -> bool:
    mark = "[green]valid[/]" if one["valid"] else "[red]invalid[/]"
    out.print(f"{mark}  {one['file']}[{one['index']}] {one['resource_type'] or '?'}", highlight=False)
    for issue in one["issues"]:
        out.print(f"       {issue['code']}: {issue['text']}", markup=False, highlight=False)
    return not one["valid"]


@app.command()
def score(
    files: Files,
    institution: Annotated[str, typer.Option("--institution", "-i", help="Whose encounters these are.")],
    model: Annotated[
        str | None, typer.Option(help="A model file, or models:/<name>@<alias>; else the champion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the files' encounters without Kafka or PostgreSQL: one JSON line each, with --json one array."""
    from connectors.models import load, load_champion
    from healthalliance.files import score_files, score_line

    settings = load_settings()
    if model is None or model.startswith("models:"):
        settings = connected("mlflow")
    loaded = load_champion(settings) if model is None else load(model, settings)
    scores, rejected = score_files(files, find_institution(institution), settings, loaded)
    lines = [score_line(one) for one in scores]
    if as_json:
        print_json(lines)
    else:
        for line in lines:
            print(json.dumps(line))
    if rejected:
        err.print(f"{rejected} events were rejected; `healthalliance validate` says why.")


@app.command()
def publish(
    institution: InstitutionId,
    files: Files,
    dataset: Annotated[Dataset | None, typer.Option(help="The one file is of this data set, not FHIR.")] = None,
    part: Annotated[
        str, typer.Option(help="Of a data set only this part: 1/3, 2/3 and 3/3 differ as hospitals do.")
    ] = "1/1",
    as_json: Json = False,
) -> None:
    """Publish FHIR files, or a data set's file, as encounter events, in time order within each patient."""
    import time

    from connectors.datasets.diabetes130 import ALL, parse_part, read_diabetes130
    from connectors.fhir_files import read_events, total_bytes
    from healthalliance.publishing import publish_events

    if dataset and len(files) != 1:
        raise typer.BadParameter("a data set is one file.", param_hint="FILES")
    chosen = parse_part(part)
    if chosen != ALL and not dataset:
        raise typer.BadParameter("only a data set has parts.", param_hint="--part")
    find_institution(institution)
    settings = connected("kafka", user=institution_user(institution))
    skipped, started = Counter[str](), time.monotonic()
    columns = (TextColumn("publishing"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=as_json) as progress:
        task = progress.add_task("", total=None if dataset else total_bytes(files))

        def advance(size: int) -> None:
            progress.advance(task, size)

        if dataset:
            events = read_diabetes130(files[0], chosen, progress=advance)
        else:
            events = read_events(files, progress=advance, skipped=skipped)
        count = publish_events(settings, institution, events)
    report = {
        "institution": institution,
        "published": count,
        "skipped": dict(skipped),
        "seconds": round(time.monotonic() - started, 3),
    }
    if as_json:
        print_json(report)
    else:
        topic = topic_name(TopicFamily.ENCOUNTERS, institution)
        out.print(f"Published {count} events to {topic} in {report['seconds']} s, all confirmed.")
        if skipped:
            out.print("Skipped, as no events here: " + ", ".join(f"{n} {kind}" for kind, n in skipped.items()) + ".")


@app.command()
def simulate(
    institution: InstitutionId,
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    start: Annotated[datetime, typer.Option("--from", help="First day, UTC.")] = datetime(2022, 1, 1),
    until: Annotated[datetime, typer.Option(help="End, UTC, exclusive.")] = datetime(2025, 1, 1),
    faults: Annotated[float, typer.Option(help="Share of faulty events, 0 to 0.5.")] = 0.01,
    to: Annotated[Path | None, typer.Option("--to", help="Write NDJSON here instead of publishing.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a hospital: publish its events, or write them to a file."""
    from datetime import UTC

    from connectors.simulator import simulate as simulate_events
    from healthalliance.publishing import publish_events, write_ndjson

    find_institution(institution)
    window = start.replace(tzinfo=UTC), until.replace(tzinfo=UTC)
    events = simulate_events(institution, seed, patients, *window, fault_share=faults)
    if to is None:
        count = publish_events(connected("kafka", user=institution_user(institution)), institution, events)
    else:
        count = write_ndjson(to, events)
    place = topic_name(TopicFamily.ENCOUNTERS, institution) if to is None else str(to)
    if as_json:
        print_json({"institution": institution, "events": count, "seed": seed, "to": place})
    else:
        out.print(f"{count} simulated events went to {place} (seed {seed}).")


@app.command()
def worker(
    processes: Annotated[int, typer.Option(min=1, help="How many; more than there are partitions idle.")] = 1,
    history_only: Annotated[
        bool, typer.Option(help="Fold and featurize without scoring, to have a first training set.")
    ] = False,
    metrics_port: Annotated[int | None, typer.Option(help="Overrides METRICS_PORT.")] = None,
    as_json: Json = False,
) -> None:
    """Run the stream processor until it is stopped."""
    import time

    from healthalliance.workers import WorkerOptions, WorkerProcesses
    from streams.worker import Worker

    settings = connected(user=WORKER)
    _prepare(settings)
    port = settings.metrics_port if metrics_port is None else metrics_port
    if processes == 1:
        Worker(settings, metrics_port=port, history_only=history_only).run()
        return
    settings = settings.model_copy(update={"metrics_port": port})
    with WorkerProcesses(settings, WorkerOptions(processes, history_only)) as running:
        try:
            while True:
                running.watch()
                time.sleep(1)
        except KeyboardInterrupt:
            running.stop()
    if as_json:
        print_json({"processes": processes, "restarts": running.restarts})


@app.command()
def train(
    seed: Annotated[int, typer.Option(help="Splits and fits the same way for the same seed.")] = 1,
    every: Annotated[str | None, typer.Option(help="Train again and again: 30m, 24h, 7d; ends on Ctrl-C.")] = None,
    backend: Annotated[Literal["threads", "dask"], typer.Option(help="What fits the trees.")] = "threads",
    force: Annotated[bool, typer.Option("--force", help="Make it champion whatever the gate says.")] = False,
    note: Annotated[str | None, typer.Option(help="What the model card is to say of the data.")] = None,
    federated: Annotated[
        bool, typer.Option("--federated", help="Each institution fits by itself; only trees are merged.")
    ] = False,
    pooled: Annotated[bool, typer.Option("--pooled", help="With --federated: compare with a pooled forest.")] = False,
    as_json: Json = False,
) -> None:
    """Train on the feature topics as they are now; the model becomes champion if the gate lets it."""
    from healthalliance.scheduling import interval, run_every
    from healthalliance.training import chosen_options, show_training, train_alone

    if federated and (force or note or backend != "threads"):
        raise typer.BadParameter("--federated goes without --force, --note and --backend")
    options = chosen_options(backend, force=force, note=note)

    def once() -> None:
        if federated:
            _train_federated(seed, pooled, as_json)
            return
        with err.status("training") as status:
            settings = connected(*TRAINING_PARTS, user=TRAINER)
            result = train_alone(settings, seed, options, lambda step, share: status.update(f"{step} {share:.0%}"))
        if as_json:
            print_json(asdict(result))
        else:
            show_training(result, out)

    if every is None:
        once()
    else:
        run_every(interval(every), once, lambda text: err.print(text, markup=False, highlight=False, soft_wrap=True))


def _train_federated(seed: int, pooled: bool, as_json: bool) -> None:
    from connectors.training_lock import only_training_run
    from healthalliance.auditing import note_access
    from healthalliance.federating import federate

    settings = connected(*TRAINING_PARTS, user=TRAINER)
    with err.status("training") as status, only_training_run(settings.database_url, settings.model_name):
        result = federate(settings, list(institutions()), seed, pooled=pooled, on_progress=status.update)
        note_access(settings, Action.TRAIN, EVERYBODY, [f"model:{result.model_name}/{result.version}/{result.alias}"])
    show_federated(result, as_json)


@app.command()
def replay(
    institution: Annotated[str, typer.Option("--institution", "-i", help="Whose log to replay.")],
    start: Annotated[datetime, typer.Option("--from", help="Compare events received from then on, UTC.")],
    into: Annotated[str, typer.Option("--into", help="The PostgreSQL schema to make and fill.")],
    until: Annotated[datetime | None, typer.Option("--to", help="Compare events received before, UTC.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the schema of an earlier replay.")] = False,
    as_json: Json = False,
) -> None:
    """Work off the log anew beside what is live, with the rules and champion of now, and show what would change."""
    from datetime import UTC

    from connectors.side_schema import Window
    from healthalliance.auditing import noted_change
    from healthalliance.replay import Replay
    from healthalliance.replay import replay as run_replay
    from healthalliance.replay_report import replay_document, show_replay

    window = Window(start.replace(tzinfo=UTC), until.replace(tzinfo=UTC) if until else None)
    settings = connected()
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    found = find_institution(institution).id
    with noted_change(settings, Action.REPLAY, found), Progress(*columns, console=err, disable=as_json) as progress:
        task = progress.add_task("", total=None)
        replayed = run_replay(
            settings,
            Replay(institution, into, window, replace),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(replay_document(replayed))
    else:
        show_replay(replayed, out)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End, and stop everything, once all is shown.")] = False,
    seed: Annotated[int, typer.Option(help="The simulated hospitals' seed.")] = 1,
    as_json: Json = False,
) -> None:
    """Show the whole way: three simulated hospitals, a trained model, live scores."""
    from healthalliance.demo import run_demo

    report = run_demo(load_settings(), once=once, seed=seed, out=err if as_json else out)
    if as_json:
        print_json(report)


@app.command()
def up(as_json: Json = False) -> None:
    """Start the local stack: Kafka, schema registry, PostgreSQL, model store."""
    from healthalliance import local_stack

    settings = load_settings()
    running = local_stack.up(settings, lambda text: err.print(text, highlight=False))
    _prepare(running)
    _print_status(local_stack.status(settings), as_json)


@app.command()
def down(as_json: Json = False) -> None:
    """Stop the local stack; its data stay."""
    from healthalliance import local_stack

    stopped = [str(part) for part in local_stack.down(load_settings())]
    if as_json:
        print_json({"stopped": stopped})
    else:
        out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show the local stack's parts and how far the stream is."""
    from healthalliance import local_stack
    from healthalliance.progress import read_progress
    from healthalliance.reports import progress_table

    settings = load_settings()
    parts = local_stack.status(settings)
    try:
        progress = read_progress(local_stack.connected(settings))
    except HealthAllianceError:
        progress = {}
    if as_json:
        print_json(
            {"parts": [asdict(one) for one in parts], "institutions": {k: asdict(v) for k, v in progress.items()}}
        )
        return
    _print_status(parts, as_json=False)
    if progress:
        out.print(progress_table(progress))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check addresses, topics, migrations, model and clock, and say what to do; exit with 1 if anything is wrong."""
    from healthalliance.doctor import examine

    findings = examine(load_settings())
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        for one in findings:
            out.print(f"{'[green]ok [/]' if one.ok else '[red]bad[/]'} {one.what}: {one.text}", highlight=False)
    raise typer.Exit(0 if all(one.ok for one in findings) else 1)


@intake_app.command("resume")
def resume_intake(institution: InstitutionId, as_json: Json = False) -> None:
    """Let an institution's events in again after too many were rejected."""
    import asyncio

    from connectors.store import connect
    from healthalliance.auditing import noted_change

    find_institution(institution)
    settings = connected("postgres")

    async def resume() -> bool:
        store = await connect(settings.database_url)
        try:
            return await store.resume_intake(institution)
        finally:
            await store.close()

    with noted_change(settings, Action.RESUME_INTAKE, institution):
        resumed = asyncio.run(resume())
    if as_json:
        print_json({"institution": institution, "resumed": resumed})
    else:
        out.print(f"The intake of {institution} {'goes on' if resumed else 'was not stopped'}.")


def _prepare(settings: Settings) -> None:
    """Make what a worker needs: topics, tables; what is there stays."""
    from connectors.kafka import ensure_topics
    from connectors.migrate import migrate

    ensure_topics(settings)
    migrate(settings.database_url)


def _print_status(parts: list[Any], as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in parts])
        return
    table = Table("part", "state", "address", "pid", "MB")
    for one in parts:
        memory = f"{one.memory_bytes / 2**20:.0f}" if one.memory_bytes else ""
        table.add_row(one.part, one.state, one.address, str(one.pid or ""), memory)
    out.print(table)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a HealthAllianceError becomes one sentence on stderr and its exit code."""
    for one in (signal.SIGTERM, signal.SIGHUP):  # what was started is stopped in order, as for Ctrl-C
        if signal.getsignal(one) is not signal.SIG_IGN:  # as nohup asks
            signal.signal(one, _interrupt)
    try:
        app()
    except HealthAllianceError as error:
        print(f"healthalliance: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
