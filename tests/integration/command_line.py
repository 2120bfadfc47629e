"""The command line as a person meets it: a process, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from connectors.settings import Settings, settings_environment


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Read stdout as the one JSON document it is to be."""
        return json.loads(self.stdout)


def run(settings: Settings, *arguments: object, timeout_s: float = 240.0, **variables: str) -> Ended:
    """Run a command with these settings in its environment, `variables` beside or over them."""
    done = subprocess.run(
        [sys.executable, "-m", "healthalliance", *map(str, arguments)],
        env={**os.environ, **settings_environment(settings), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def of_local_stack(settings: Settings) -> Settings:
    """Keep of a running stack's settings only its folder, as a person has them who typed `healthalliance up`."""
    return Settings.model_construct(data_dir=settings.data_dir)
