"""`healthalliance topics ensure` and `healthalliance migrate`: make what workers need, and end."""

from __future__ import annotations

import typer

from healthalliance.console import Json, connected, out, print_json
from schemas.access import ADMIN

topics_app = typer.Typer(no_args_is_help=True, help="Kafka's topics.")


@topics_app.command("ensure")
def ensure(as_json: Json = False) -> None:
    """Create the topics that are missing; those that exist stay as they are."""
    from connectors.kafka import ensure_topics

    created = ensure_topics(connected("kafka", user=ADMIN))
    if as_json:
        print_json({"created": created})
    else:
        out.print(f"Created {', '.join(created)}." if created else "Every topic is there.", soft_wrap=True)


def migrate(as_json: Json = False) -> None:
    """Bring PostgreSQL's tables to the newest migration; one process at a time."""
    from connectors.migrate import is_migrated
    from connectors.migrate import migrate as apply

    settings = connected("postgres")
    before = is_migrated(settings.database_url)
    apply(settings.database_url)
    if as_json:
        print_json({"migrated": not before})
    else:
        out.print("The tables were at the newest migration." if before else "Applied the missing migrations.")
