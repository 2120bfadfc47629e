"""The Terraform files as parsed blocks, and Terraform itself on those that hold values alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest

from tests.contract.source_code import ROOT

FOLDER = ROOT / "terraform"
needs_terraform = pytest.mark.skipif(shutil.which("terraform") is None, reason="there is no command terraform")


@dataclass(frozen=True)
class Block:
    """A resource, data source or ephemeral resource: `resource "aws_vpc" "main"` and its body."""

    file: str
    kind: str
    type: str
    name: str
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.type}.{self.name}"


@cache
def files() -> dict[str, dict[str, Any]]:
    """Return each file's parsed text by its name."""
    return {path.name: _unquoted(hcl2.loads(path.read_text("utf-8"))) for path in sorted(FOLDER.glob("*.tf"))}


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(_blocks())


def _blocks() -> Iterator[Block]:
    for file, content in files().items():
        for kind in ("resource", "data", "ephemeral"):
            for one in content.get(kind, []):
                [(type_, named)] = one.items()
                [(name, body)] = named.items()
                yield Block(file, kind, type_, name, body)


def entries(kind: str) -> dict[str, dict[str, Any]]:
    """Return all variables or outputs by name."""
    return {name: body for content in files().values() for one in content.get(kind, []) for name, body in one.items()}


def values() -> dict[str, Any]:
    """Return all local values, as written."""
    return {
        name: value for content in files().values() for one in content.get("locals", []) for name, value in one.items()
    }


def texts(value: Any) -> Iterator[str]:
    """Yield every string in a parsed value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def _unquoted(value: Any) -> Any:
    """Drop the parser's own marks: quotes around literal strings and names, comments."""
    if isinstance(value, str):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if isinstance(value, list):
        return [_unquoted(one) for one in value]
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key not in ("__is_block__", "__comments__")}
        return {_unquoted(key): _unquoted(one) for key, one in kept.items()}
    return value


def evaluate(folder: Path, expressions: dict[str, str], given: Sequence[str] = (), schemas: Path | None = None) -> Any:
    """Have Terraform work expressions out over access.tf and variables.tf; return its process.

    No provider is needed for them, so this works offline. `schemas` stands in for the project's folder of that name.
    """
    work = folder / "terraform"
    work.mkdir(parents=True)
    shutil.copytree(schemas or ROOT / "schemas", folder / "schemas", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("access.tf", "variables.tf"):
        shutil.copy(FOLDER / name, work)
    outputs = "".join(f'output "{name}" {{\n  value = {text}\n}}\n' for name, text in expressions.items())
    (work / "outputs.tf").write_text(outputs, "utf-8")
    _terraform(work, "init", "-input=false").check_returncode()
    variables = [
        f"-var={one}" for one in ("account_id=123456789012", "github_repository=some-owner/healthalliance", *given)
    ]
    return _terraform(work, "apply", "-input=false", "-auto-approve", *variables)


def evaluated(folder: Path, expressions: dict[str, str], schemas: Path | None = None) -> dict[str, Any]:
    """Return what Terraform makes of the expressions; fail with its words where it refuses."""
    done = evaluate(folder, expressions, schemas=schemas)
    assert done.returncode == 0, done.stderr
    said = json.loads(_terraform(folder / "terraform", "output", "-json").stdout)
    return {name: one["value"] for name, one in said.items()}


def _terraform(folder: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    environment.pop("TF_CLI_CONFIG_FILE", None)
    return subprocess.run(
        ["terraform", f"-chdir={folder}", command, "-no-color", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
