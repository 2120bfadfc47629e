"""The release before this one, taken out of the repository, in the same virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.settings import Settings, settings_environment
from tests.documents import ROOT

PREVIOUS = "7b153c8"
_REVISION = "0006"  # of its newest migration


@dataclass(frozen=True)
class Release:
    """A release's tree; its migrations end at `revision`."""

    folder: Path
    revision: str

    def command(self, *words: str) -> tuple[str, ...]:
        """Return what runs Python with this tree's modules, and with no others of the project."""
        return ("env", f"PYTHONPATH={self.folder}", sys.executable, "-P", *words)

    def run(self, settings: Settings, code: str, stdin: str = "") -> str:
        """Run code with the tree's modules and return what it prints."""
        done = self.attempt(settings, code, stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, settings: Settings, code: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run code with the tree's modules, whatever comes of it."""
        return subprocess.run(
            self.command("-c", code),
            cwd=self.folder,
            env={**os.environ, **settings_environment(settings)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )


def previous_release(folder: Path) -> Release:
    """Lay the previous release's tree into the folder; skip where the repository does not have it."""
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"needs the commit {PREVIOUS}, which a shallow clone or a copy does not have")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return Release(folder, _REVISION)
