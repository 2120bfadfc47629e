"""`healthalliance alerts`: alert people of risks, and tell beforehand what a budget would mean."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr
from rich.table import Table

from connectors.settings import Settings, load_settings
from healthalliance.console import Json, connected, err, out, print_json
from healthalliance.since import since
from schemas.access import alerting_user
from schemas.alert import SinkKind
from schemas.feature_words import Language
from schemas.institutions import institution as find_institution
from schemas.messages import Band
from schemas.topics import TopicFamily, topic_name

if TYPE_CHECKING:
    from healthalliance.alerting.service import Options, Tally
    from healthalliance.alerting.simulation import Catch, Simulation
    from healthalliance.alerting.sinks import Sink

app = typer.Typer(help="Alerts of risks: read from the topic, told once, within a day's budget.")

Institution = Annotated[str | None, typer.Option("--institution", "-i", help="Whose scores.")]
LeastBand = Annotated[Band, typer.Option("--min-band", help="The least band that is alerted.")]
Budget = Annotated[int | None, typer.Option(min=1, help="At most so many alerts a day (Berlin), the highest first.")]

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@app.callback(invoke_without_command=True)
def run_alerts(
    context: typer.Context,
    institution: Institution = None,
    min_band: LeastBand = Band.HIGH,
    sink: Annotated[SinkKind, typer.Option(help="How people are told; its address is in the settings.")] = (
        SinkKind.STDOUT
    ),
    url: Annotated[str | None, typer.Option(help="Overrides ALERT_WEBHOOK_URL or ALERT_SLACK_URL.")] = None,
    budget: Budget = None,
    language: Annotated[Language, typer.Option(help="Of headline and reasons.")] = "en",
    channel: Annotated[
        str | None, typer.Option(help="A name for a second, independent way by the same sink; else the sink's.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="On the very first start: alert what stands already, too.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Read and send what is there, then end.")] = False,
    metrics_port: Annotated[int | None, typer.Option(help="Overrides ALERT_METRICS_PORT.")] = None,
    as_json: Json = False,
) -> None:
    """Alert until stopped. Each crossing into a band goes out once; sent to standard output it is a line of JSON."""
    if context.invoked_subcommand is not None:
        return
    import stamina

    from connectors.logs import log_to_stderr
    from healthalliance.alerting.service import Options
    from healthalliance.alerting.sinks import open_sink

    chosen = find_institution(_required(institution)).id
    if as_json and sink is SinkKind.STDOUT and not once:
        raise typer.BadParameter("one document cannot hold what never ends; add --once.", param_hint="--json")
    name = channel or str(sink)
    if not _CHANNEL.fullmatch(name):
        raise typer.BadParameter("lower-case letters, digits and hyphens, 40 at most.", param_hint="--channel")
    shown: list[dict[str, Any]] = []
    told = open_sink(sink, _addressed(load_settings(), sink, url), language, shown.append if as_json else _print_line)
    settings = connected("kafka", "registry", "postgres", user=alerting_user(chosen))
    if metrics_port is not None:
        settings = settings.model_copy(update={"alert_metrics_port": metrics_port})
    options = Options(
        institution=chosen, least=min_band, budget=budget, language=language,
        page=settings.alert_worklist_url, timeout_s=settings.alert_timeout_s,
    )  # fmt: skip
    stamina.instrumentation.set_on_retry_hooks([])  # they would write to standard output; the service logs by itself
    log_to_stderr(settings)
    _prepare(settings, chosen)
    started_at = _ALWAYS if from_beginning else datetime.now(UTC)
    tally, queue = asyncio.run(_run(settings, options, name, told, started_at, once=once))
    if as_json:
        print_json(
            {"institution": chosen, "channel": name, "scores": tally.scores, "alerts": tally.alerts, "queue": queue}
            | ({"sent": shown} if sink is SinkKind.STDOUT else {})
        )
    else:
        done = ", ".join(f"{number} {outcome}" for outcome, number in sorted(tally.alerts.items())) or "none"
        err.print(f"Alerts: {done}; {queue.get('waiting', 0)} wait.", highlight=False)


async def _run(
    settings: Settings, options: Options, channel: str, sink: Sink, started_at: datetime, *, once: bool
) -> tuple[Tally, dict[str, int]]:
    from connectors.alert_store import open_alert_store
    from healthalliance.alerting.consumer import ScoreConsumer
    from healthalliance.alerting.metrics import REGISTRY
    from healthalliance.alerting.service import AlertService
    from healthalliance.metrics_server import serve_metrics

    stopping = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stopping.set)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(sink.close)
        if not once:
            stack.callback(
                serve_metrics(settings.metrics_host, settings.alert_metrics_port, "ALERT_METRICS_PORT", REGISTRY)
            )
        store = await open_alert_store(settings.database_url, options.institution, channel)
        stack.push_async_callback(store.close)
        began = await store.begin(started_at)
        consumer = ScoreConsumer(settings, options.institution, channel)
        stack.callback(consumer.close)
        service = AlertService(options, consumer, store, sink, began, settings.retry_timeout_s if once else None)
        await (service.run_once() if once else service.run(stopping))
        return service.tally, await store.counts()


def _prepare(settings: Settings, institution: str) -> None:
    from connectors.kafka import ensure_topics
    from connectors.migrate import migrate

    ensure_topics(settings, [topic_name(TopicFamily.RISK, institution)])  # others it need not even see
    migrate(settings.database_url)


def _required(institution: str | None) -> str:
    if institution is None:
        raise typer.BadParameter("name one.", param_hint="--institution")
    return institution


def _addressed(settings: Settings, sink: SinkKind, url: str | None) -> Settings:
    if url is None:
        return settings
    if sink not in (SinkKind.WEBHOOK, SinkKind.SLACK):
        raise typer.BadParameter(f"alerts by {sink} have no address.", param_hint="--url")
    return settings.model_copy(update={f"alert_{sink}_url": SecretStr(url)})


def _print_line(document: dict[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False), flush=True)


@app.command("resend")
def resend_alerts(
    institution: Institution = None,
    channel: Annotated[
        str, typer.Option(help="The channel's name, which is its sink's unless it has one.")
    ] = "webhook",
    as_json: Json = False,
) -> None:
    """Put alerts that were refused back into the queue, as far as their stays still stand as high."""
    from connectors.alert_store import open_alert_store

    chosen = find_institution(_required(institution)).id
    settings = connected("postgres")

    async def resend() -> int:
        store = await open_alert_store(settings.database_url, chosen, channel)
        try:
            return await store.resend()
        finally:
            await store.close()

    number = asyncio.run(resend())
    if as_json:
        print_json({"institution": chosen, "channel": channel, "waiting_again": number})
    else:
        out.print(f"{number} refused alerts wait again.")


class Clock(StrEnum):
    """Which time a simulated alert goes by."""

    ARRIVAL = "arrival"
    EVENT = "event"


@app.command("simulate")
def simulate_alerts(
    institution: Institution = None,
    budget: Budget = None,
    begin: Annotated[str, typer.Option("--since", help="30d, 2025-03 or 2025-03-01.")] = "30d",
    min_band: LeastBand = Band.HIGH,
    clock: Annotated[
        Clock, typer.Option(help="When each event arrived, or, for logs that were published late, its own time.")
    ] = Clock.ARRIVAL,
    as_json: Json = False,
) -> None:
    """Tell from stored scores and outcomes what a budget would have meant; nothing is sent, and marks are unknown."""
    from connectors.alert_reading import read_moments
    from healthalliance.alerting.simulation import Moment, simulate

    chosen = find_institution(_required(institution)).id
    start = since(begin, datetime.now(UTC))
    database_url = connected("postgres").database_url
    moments, readmitted = asyncio.run(read_moments(database_url, chosen, start, clock))
    found = simulate([Moment(*one) for one in moments], min_band, budget, start, readmitted)
    if as_json:
        print_json(
            {"institution": chosen, "since": start.isoformat(), "clock": clock, "min_band": min_band, "budget": budget}
            | _document(found)
        )
    else:
        _show(found, budget)


def _document(found: Simulation) -> dict[str, Any]:
    return {
        "days": [asdict(one) for one in found.days],
        "sent": found.sent,
        "sent_a_day": found.sent / len(found.days) if found.days else None,
        "outcomes": {
            name: asdict(catch) | {"share_caught": catch.share_caught, "share_right": catch.share_right}
            for name, catch in _catches(found).items()
        },
    }


def _catches(found: Simulation) -> dict[str, Catch]:
    named = {"budget": found.catch, "day_end": found.day_end, "unlimited": found.unlimited}
    return {name: catch for name, catch in named.items() if catch is not None}


def _show(found: Simulation, budget: int | None) -> None:
    days = Table("day (Berlin)", "crossings", "alerts", "left waiting", "lowest sent", "highest left")
    for one in found.days:
        days.add_row(f"{one.day}", f"{one.crossings}", f"{one.sent}", f"{one.left}",
                     _percent(one.lowest_sent), _percent(one.highest_left))  # fmt: skip
    out.print(days)
    outcomes = Table("alerts", "outcomes known", "readmitted", "of these alerted", "share", "alerted rightly")
    names = {
        "budget": f"{budget} a day" if budget else "all",
        "day_end": "the same, chosen at the day's end",
        "unlimited": "all",
    }
    for name, catch in _catches(found).items():
        if name == "unlimited" and budget is None:
            continue
        outcomes.add_row(names[name], f"{catch.known}", f"{catch.readmitted}", f"{catch.caught}",
                         _percent(catch.share_caught), _percent(catch.share_right))  # fmt: skip
    out.print(outcomes)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
