"""The commands for the audit log."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from healthalliance.console import Json, connected, out, print_json
from healthalliance.since import since
from schemas.audit import EVERYBODY
from schemas.institutions import institution as find_institution

if TYPE_CHECKING:
    from schemas.audit import AuditRow

app = typer.Typer(no_args_is_help=True, help="Who looked at what, and who changed what.")


@app.command()
def verify(
    expect: Annotated[
        list[str] | None, typer.Option(help="A hash that an earlier look printed: no row since may be missing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look whether any row was changed, taken out or cut off; name the first one, and exit with 1 if so."""
    from connectors.audit_log import verify as verify_log

    found = asyncio.run(verify_log(connected("postgres").database_url, expect or ()))
    if as_json:
        chains = [asdict(one) for one in found.chains]
        print_json({"whole": found.is_whole, "chains": chains, "missing": found.missing})
    else:
        for one in found.chains:
            out.print(f"{one.institution:<12} {one.rows:>9,} rows  {one.head}", highlight=False, soft_wrap=True)
            if one.broken:
                out.print(f"{one.institution}: row {one.broken.sequence} {one.broken.why}.", highlight=False)
        for hash_ in found.missing:
            out.print(f"No row has {hash_}: rows were cut off, or written anew.", highlight=False, soft_wrap=True)
        if found.is_whole:
            out.print("All rows are as they were written; keep the hashes elsewhere, for --expect.", soft_wrap=True)
    raise typer.Exit(0 if found.is_whole else 1)


@app.command("list")
def list_entries(
    institution: Annotated[str, typer.Option("--institution", "-i", help="Whose data; all: models.")],
    begin: Annotated[str, typer.Option("--since", help="7d, 2025-03 or 2025-03-01.")] = "7d",
    form: Annotated[
        Literal["text", "fhir"], typer.Option("--format", help="fhir: a Bundle of R4 AuditEvents.")
    ] = "text",
    as_json: Json = False,
) -> None:
    """List who looked at what and who changed what, the oldest first."""
    from schemas.audit_event import audit_event

    chain = institution if institution == EVERYBODY else find_institution(institution).id
    rows = asyncio.run(_rows(connected("postgres").database_url, chain, since(begin, datetime.now(UTC))))
    if form == "fhir":
        entries = [{"resource": audit_event(one)} for one in rows]
        print_json({"resourceType": "Bundle", "type": "collection", "entry": entries})
    elif as_json:
        print_json([_document(one) for one in rows])
    else:
        table = Table("", "at", "who", "did", "what", pad_edge=False)
        for one in rows:
            entry, subjects = one.entry, ", ".join(one.entry.subjects[:3])
            more = f" and {len(entry.subjects) - 3} more" if len(entry.subjects) > 3 else ""
            did = f"{entry.action}" + ("" if entry.outcome == "granted" else f" ({entry.outcome})")
            table.add_row(str(one.sequence), entry.recorded_at.isoformat(), entry.agent, did, subjects + more)
        out.print(table if rows else "Nothing was noted.")


async def _rows(database_url: str, institution: str, begin: datetime) -> list[AuditRow]:
    from connectors.audit_log import read
    from connectors.view_reading import reading

    async with reading(database_url) as connection:
        return [row async for row in read(connection, institution, begin)]


def _document(row: AuditRow) -> dict[str, Any]:
    return {"sequence": row.sequence, **asdict(row.entry), "login": row.login, "hash": row.hash.hex()}
