"""`healthalliance api` and `healthalliance api-key`."""

from __future__ import annotations

from typing import Annotated

import typer

from healthalliance.console import InstitutionId, Json, connected, err, out, print_json
from schemas.access import API


def serve_api(
    port: Annotated[int | None, typer.Option(help="Overrides API_PORT.")] = None, as_json: Json = False
) -> None:
    """Serve the HTTP API until it is stopped; its description is at /docs."""
    from connectors.migrate import migrate
    from healthalliance.api.server import serve

    settings = connected(user=API)
    if port is not None:
        settings = settings.model_copy(update={"api_port": port})
    migrate(settings.database_url)
    at, metrics = (
        f"http://{settings.api_host}:{settings.api_port}",
        f"{settings.metrics_host}:{settings.api_metrics_port}",
    )
    if as_json:
        print_json({"api": at, "docs": f"{at}/docs", "metrics": f"http://{metrics}/metrics"})
    else:
        err.print(f"The API is described at {at}/docs; its metrics are at http://{metrics}/metrics", highlight=False)
    serve(settings)


def make_api_key(institution: InstitutionId, as_json: Json = False) -> None:
    """Make a key for an institution's callers: it is shown once, and only its hash is set."""
    from healthalliance.api.keys import key_hash, new_key
    from schemas.institutions import institution as find_institution

    find_institution(institution)
    key = new_key(institution)
    name, hash_ = f"INSTITUTION_API_KEY_{institution.upper()}", key_hash(key)
    if as_json:
        print_json({"institution": institution, "key": key, "setting": name, "hash": hash_})
        return
    out.print(f"key      {key}", highlight=False, soft_wrap=True)
    out.print(f"setting  {name}={hash_}", highlight=False, soft_wrap=True)
    out.print("To rotate: set the new hash beside the old one, separated by a comma, and later remove the old one.")
