"""`healthalliance api` and `healthalliance api-key`."""

from __future__ import annotations

from typing import Annotated

import typer

from healthalliance.console import InstitutionId, Json, connected, out, print_json

app = typer.Typer()


@app.command("api")
def serve_api(port: Annotated[int | None, typer.Option(help="Overrides API_PORT.")] = None) -> None:
    """Serve the HTTP API until it is stopped; its description is at /docs."""
    from connectors.migrate import migrate
    from healthalliance.api.server import serve

    settings = connected()
    migrate(settings.database_url)
    serve(settings if port is None else settings.model_copy(update={"api_port": port}))


@app.command("api-key")
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
