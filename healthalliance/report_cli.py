"""The command that writes an analyst's report."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from healthalliance.console import Json, connected, out, print_json
from healthalliance.since import since
from schemas.errors import ConfigurationError
from schemas.institutions import institution as find_institution


def report(
    begin: Annotated[str, typer.Option("--since", help="How far back, 30d, or a day, 2025-03-01.")] = "30d",
    institution: Annotated[str | None, typer.Option("--institution", "-i", help="Only this one's.")] = None,
    to: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write an HTML page of scores, models, drift and rejected events for analysts."""
    if missing := [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]:
        raise ConfigurationError(f"{' and '.join(missing)} missing: pip install 'healthalliance[training]'.")
    from connectors.overview import read_overview
    from healthalliance.risk_report import as_html

    now = datetime.now(UTC)
    first_day = since(begin, now).date()
    chosen = find_institution(institution).id if institution else None
    overview = read_overview(connected("postgres").database_url, first_day, chosen)
    shown = overview.institutions or ((chosen,) if chosen else ())
    _write(to, as_html(overview, first_day, now, shown))
    if as_json:
        print_json({"report": str(to), "since": str(first_day), "institutions": list(shown)})
    else:
        out.print(f"Report since {first_day}: {to}", markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}).") from error
