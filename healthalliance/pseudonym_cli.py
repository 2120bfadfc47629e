"""`healthalliance pseudonym`: for whoever holds the key."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from connectors.settings import load_settings
from healthalliance.console import Json, connected, err, out, print_json
from schemas.errors import ConfigurationError
from schemas.institutions import institution as find_institution
from schemas.institutions import institutions

app = typer.Typer(help="Pseudonyms, for the holder of the key; the way back to an id is no one's, key or not.")

Patient = Annotated[str | None, typer.Option("--patient", help="A Patient's id.")]
Encounter = Annotated[str | None, typer.Option("--encounter", help="An Encounter's id.")]


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    institution: Annotated[str | None, typer.Option("--institution", "-i", help="Whose id it is.")] = None,
    patient: Patient = None,
    encounter: Encounter = None,
    key: Annotated[
        Literal["current", "previous"], typer.Option(help="PSEUDONYM_KEY, or PSEUDONYM_KEY_PREVIOUS.")
    ] = "current",
    as_json: Json = False,
) -> None:
    """Print the pseudonym that an id of the institution has. The reverse is impossible: HMAC has no way back."""
    if context.invoked_subcommand is not None:
        return
    from connectors.pseudonym_keys import keys_of_settings

    if institution is None or (patient is None) == (encounter is None):
        raise typer.BadParameter("needs --institution, and --patient or --encounter.")
    found = keys_of_settings(load_settings(), find_institution(institution).id)
    if key == "previous" and len(found) < 2:
        raise ConfigurationError("PSEUDONYM_KEY_PREVIOUS is not set.")
    keys = found[key == "previous"]
    pseudonym = keys.patient_pseudonym(patient) if patient is not None else keys.encounter_pseudonym(encounter or "")
    if as_json:
        print_json({"institution": institution, "pseudonym": pseudonym, "key_id": keys.id})
    else:
        out.print(pseudonym, highlight=False)


@app.command()
def rotate(
    institution: Annotated[list[str] | None, typer.Option("--institution", "-i", help="Only of these.")] = None,
    as_json: Json = False,
) -> None:
    """Make all pseudonyms and histories anew with PSEUDONYM_KEY, from PSEUDONYM_KEY_PREVIOUS; stop workers first."""
    from connectors.migrate import migrate
    from healthalliance.rotation import rotate as run_rotation

    chosen = [find_institution(one).id for one in institution or institutions()]
    settings = connected()
    migrate(settings.database_url)
    results = []
    for one in chosen:
        with err.status(f"{one}: …"):
            results.append(run_rotation(settings, one))
    if as_json:
        print_json([asdict(one) for one in results])
        return
    for rotated in results:
        what = f"{rotated.patients:,} patients, {rotated.features:,} encounters' features"
        out.print(f"{rotated.institution}: {what}; the key is {rotated.key_id}.", highlight=False)
