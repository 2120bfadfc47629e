"""The commands for rejected events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from healthalliance.console import Json, connected, out, print_json
from schemas.audit import Action

if TYPE_CHECKING:
    from connectors.settings import Settings
    from healthalliance.rejected import Judged, Selection

app = typer.Typer(no_args_is_help=True, help="Rejected events, and the way back for them.")

Event = Annotated[str, typer.Argument(help="<institution>/<partition>/<offset>, as `list` and `redrive` show it.")]
Events = Annotated[list[str] | None, typer.Argument(help="Events as <institution>/<partition>/<offset>; else all.")]
Institution = Annotated[str | None, typer.Option("--institution", "-i", help="Only this institution's.")]
ReasonCode = Annotated[str | None, typer.Option("--reason", help="Only those rejected for this reason first.")]


@app.command("list")
def list_groups(
    institution: Institution = None,
    reason: ReasonCode = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were redriven or discarded too.")] = False,
    as_json: Json = False,
) -> None:
    """Count rejected events by institution, reason and path; open ones, unless --all."""
    from healthalliance.rejected import grouped

    groups = grouped(connected("postgres"), institution, reason, resolved=everything)
    if as_json:
        print_json(groups)
        return
    whole = [Column(name, overflow="fold") for name in ("reason", "path")]  # codes are searched for, never cut
    table = Table("institution", *whole, "events", "first seen", "last seen")
    for one in groups:
        seen = (one[name].strftime("%Y-%m-%d %H:%M:%S") for name in ("first_seen", "last_seen"))
        table.add_row(one["institution"], one["reason"], one["path"], f"{one['events']:,}", *seen)
    out.print(table if groups else "No rejected event is open.")


@app.command()
def show(
    event: Event,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the sender's data, which names patients.")] = False,
    as_json: Json = False,
) -> None:
    """Show one rejected event: why, what would be said of it now, how to mend it, and its content, masked."""
    from healthalliance.auditing import note_access
    from healthalliance.rejected import EventId, shown

    settings, id_ = connected("kafka", "postgres"), EventId.parse(event)
    found = shown(settings, id_, reveal=reveal)
    note_access(settings, Action.REVEAL if reveal else Action.SHOW_REJECTED, id_.institution, [f"event:{id_}"])
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if name == "issues":
            for issue in value:
                out.print(f"{issue['reason']:<16} {issue['path']}", markup=False, highlight=False)
                out.print(f"{'':<16} {issue['hint']}", markup=False, highlight=False)
        elif name in ("now", "content"):
            out.print(f"{name}:", highlight=False)
            out.print_json(json.dumps(value))
        elif value is not None:
            out.print(f"{name:<16} {value}", markup=False, highlight=False)


@app.command()
def redrive(
    events: Events = None,
    institution: Institution = None,
    reason: ReasonCode = None,
    go: Annotated[bool, typer.Option("--go", help="Publish those that pass; else only say which would.")] = False,
    as_json: Json = False,
) -> None:
    """Judge open events by the rules of now and, with --go, publish those that pass again."""
    from healthalliance.rejected import judged

    settings = connected()
    found = judged(settings, _selection(events, institution, reason))
    passing = [one for one in found if one.passes]
    sent = _sent(settings, passing) if go else []
    if as_json:
        offsets = {one.id: offset for one, offset in sent}
        print_json([{**_document(one), "redriven_offset": offsets.get(one.id)} for one in found])
        return
    table = Table("event", "now")
    for one in found:
        table.add_row(str(one.id), _said(one))
    out.print(table if found else "No rejected event is open.")
    if go:
        out.print(f"{len(sent)} events were published again, all confirmed; {len(found) - len(sent)} stay open.")
    elif found:
        out.print(f"{len(passing)} of {len(found)} would pass; --go publishes them again.")


@app.command()
def discard(
    because: Annotated[str, typer.Option("--because", help="Why; it is kept, so name nobody.")],
    events: Events = None,
    institution: Institution = None,
    reason: ReasonCode = None,
    as_json: Json = False,
) -> None:
    """Put open events aside for a reason that is kept."""
    from healthalliance.auditing import noted_change
    from healthalliance.rejected import by_institution
    from healthalliance.rejected import discard as put_aside

    if not (events or institution or reason):
        raise typer.BadParameter("say which: events, --institution or --reason.")
    settings, selection = connected("postgres"), _selection(events, institution, reason)
    count = 0
    for one, part in by_institution(selection).items():
        with noted_change(settings, Action.DISCARD, one, part.subjects()):
            count += put_aside(settings, part, because)
    if as_json:
        print_json({"discarded": count})
    else:
        out.print(f"Discarded {count} events.")


def _sent(settings: Settings, passing: list[Judged]) -> list[tuple[Judged, int]]:
    from healthalliance.auditing import noted_change
    from healthalliance.rejected import redrive as publish_again

    sent = []
    for institution in dict.fromkeys(one.id.institution for one in passing):
        own = [one for one in passing if one.id.institution == institution]
        with noted_change(settings, Action.REDRIVE, institution, [f"event:{one.id}" for one in own]):
            sent += publish_again(settings, own)
    return sent


def _selection(events: list[str] | None, institution: str | None, reason: str | None) -> Selection:
    from healthalliance.rejected import EventId, Selection

    return Selection(institution, reason, tuple(EventId.parse(one) for one in events or ()))


def _said(one: Judged) -> str:
    if one.record is None:
        return "its content is gone: its retention is over"
    if one.passes:
        return "passes"
    return ", ".join(f"{issue.reason} {issue.shared_path}" for issue in one.issues)


def _document(one: Judged) -> dict[str, Any]:
    issues = [{"reason": issue.reason, "path": issue.shared_path} for issue in one.issues]
    return {"event": str(one.id), "passes": one.passes, "content_gone": one.record is None, "issues": issues}
