"""What the commands share: where they print, their common options, the addresses of what runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from connectors.settings import Settings, load_settings
from schemas.access import OPERATOR

# Training knows pseudonyms only, and needs no key to make them.
TRAINING_PARTS = ("kafka", "registry", "postgres", "mlflow")

out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
InstitutionId = Annotated[str, typer.Argument(help="The institution's id.")]


def connected(*parts: str, user: str = OPERATOR) -> Settings:
    """Load the settings and fill in the addresses of the named parts, or of all with the key, from the local stack.

    `user` is who comes to the local stack's Kafka.
    """
    from healthalliance.local_stack import Part
    from healthalliance.local_stack import connected as filled_in

    return filled_in(load_settings(), [Part(part) for part in parts] or None, user)


def print_json(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, default=str), flush=True)  # whoever reads a pipe of many runs waits for each
