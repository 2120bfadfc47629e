"""Is everything there that the stream needs, and if not, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.kafka import present_topics
from connectors.migrate import is_migrated
from connectors.models import load_champion
from connectors.registry import Registry
from connectors.settings import Settings
from healthalliance.local_stack import connected
from healthalliance.progress import fetch, read_progress
from schemas.errors import HealthAllianceError, UnavailableError
from schemas.institutions import institutions
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, topic_names

_CLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what, whether it is well, and what it is or what to do."""

    what: str
    ok: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a part that is away makes the findings that need it bad, not the command."""
    try:
        settings = connected(settings)
    except HealthAllianceError as error:
        return [Finding("addresses", False, str(error))]
    return [Finding("addresses", True, "all given or of the local stack"), *_examine(settings)]


def _examine(settings: Settings) -> Iterator[Finding]:
    checks: dict[str, Callable[[Settings], str]] = {
        "topics": _topics,
        "schema registry": _registry,
        "migrations": _migrations,
        "clock": _clock,
        "pseudonym key": _key,
        "model": _model,
        "stream": _stream,
    }
    for what, check in checks.items():
        try:
            yield Finding(what, True, check(settings))
        except HealthAllianceError as error:
            yield Finding(what, False, str(error))


def _topics(settings: Settings) -> str:
    wanted = {name for family in TopicFamily for name in topic_names(family)}
    missing = sorted(wanted - present_topics(settings))
    if missing:
        raise UnavailableError(f"missing: {', '.join(missing)}; `healthalliance up` or a worker makes them.")
    return f"all {len(wanted)} are there"


def _registry(settings: Settings) -> str:
    if not Registry(settings.schema_registry_url).is_up():
        raise UnavailableError("SCHEMA_REGISTRY_URL does not answer.")
    return "answers"


def _migrations(settings: Settings) -> str:
    if not is_migrated(settings.database_url):
        raise UnavailableError("the database lacks migrations; `healthalliance up` or a worker applies them.")
    return "the newest is applied"


def _clock(settings: Settings) -> str:
    there = fetch(settings, "SELECT clock_timestamp() AS now")[0]["now"]
    apart = abs((datetime.now(UTC) - there).total_seconds())
    if apart > _CLOCK_S:
        raise UnavailableError(f"this clock and PostgreSQL's are {apart:.1f} s apart; look at time synchronisation.")
    return f"{apart * 1000:.0f} ms from PostgreSQL's"


def _key(settings: Settings) -> str:
    for id_ in institutions():
        institution_keys(settings.pseudonym_key.get_secret_value(), id_)
    return "is set and long enough"


def _model(settings: Settings) -> str:
    model = load_champion(settings)
    return f"{model.name} version {model.version}, digest and signature verified"


def _stream(settings: Settings) -> str:
    stopped = [row["institution"] for row in fetch(settings, "SELECT institution FROM intake_stops")]
    if stopped:
        raise UnavailableError(f"intake stopped: {', '.join(stopped)}; then `healthalliance intake resume`.")
    waiting = sum(one.waiting for one in read_progress(settings).values())
    return f"{waiting} events wait"
