"""`healthalliance acl`: who may do what in Kafka, as declared and as the broker has it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from healthalliance.console import Json, connected, out, print_json
from schemas.access import ADMIN

app = typer.Typer(no_args_is_help=True, help="Access rules of Kafka, declared in schemas/access.py.")


@app.command("list")
def list_rules(as_json: Json = False) -> None:
    """List the rules and whether the broker has them."""
    from connectors.kafka_acls import kept_rules
    from schemas.access import changes, rules

    settings = connected("kafka", user=ADMIN)
    declared, kept = rules(worker_group=settings.consumer_group), kept_rules(settings)
    todo = changes(declared, kept.rules)
    states = (
        dict.fromkeys(declared, "kept")
        | dict.fromkeys(todo.add, "missing")
        | dict.fromkeys(todo.remove, "not declared")
    )
    if as_json:
        print_json(
            {"rules": [asdict(rule) | {"state": state} for rule, state in states.items()], "others": kept.others}
        )
        return
    table = Table("user", "may", "on", "name", "broker")
    for rule, state in states.items():
        name = f"{rule.name}*" if rule.pattern == "Prefixed" else rule.name
        table.add_row(rule.user, rule.operation, rule.resource, name, state)
    out.print(table)
    _show_others(kept.others)


@app.command("apply")
def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: Json = False,
) -> None:
    """Add what is missing, and remove what our own users may beyond it; other users' rules are left alone."""
    from connectors.kafka_acls import add_rules, kept_rules, remove_rules
    from schemas.access import changes, rules

    settings = connected("kafka", user=ADMIN)
    kept = kept_rules(settings)
    todo = changes(rules(worker_group=settings.consumer_group), kept.rules)
    if not dry_run:
        add_rules(settings, todo.add)
        remove_rules(settings, todo.remove)
    if as_json:
        added, removed = [asdict(one) for one in todo.add], [asdict(one) for one in todo.remove]
        print_json({"add": added, "remove": removed, "others": kept.others, "applied": not dry_run})
        return
    for sign, some in (("+", todo.add), ("-", todo.remove)):
        for rule in some:
            out.print(f"{sign} {rule}", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(todo.add)} to add, {len(todo.remove)} to remove"
    out.print(
        f"{counts}; nothing was changed."
        if dry_run
        else f"{counts}: done."
        if any((todo.add, todo.remove))
        else "Every rule is as declared."
    )
    _show_others(kept.others)


def _show_others(others: tuple[str, ...]) -> None:
    for one in others:
        out.print(f"left alone: {one}", markup=False, highlight=False, soft_wrap=True)
