"""A federated training on one machine: each site is a process of its own that knows of no other institution."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from connectors.settings import Settings, settings_environment
from model_training.federation.job import FederatedResult, fit_pooled, merge_forests, register_federated
from schemas.errors import HealthAllianceError, NotEnoughStaysError

# A site reads one topic and writes a file; it needs neither the database nor the registry of models, nor the secret.
_NOT_FOR_SITES = ("DATABASE_URL", "MLFLOW_TRACKING_URI", "PSEUDONYM_KEY")

OnProgress = Callable[[str], None]


def federate(
    settings: Settings, institutions: Sequence[str], seed: int, *, pooled: bool, on_progress: OnProgress
) -> FederatedResult:
    """Run both rounds, one site after the other, and register what comes of them.

    A site with too few stays takes no part. pooled: fit a forest on all sites' rows too, to compare. Raises
    NotEnoughStaysError where no site is left, what a site's process ended with, and what `register_federated` raises.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        taking_part = [one for one in institutions if _fit(settings, one, seed, folder, on_progress)]
        if not taking_part:
            raise NotEnoughStaysError
        if pooled:
            on_progress("fitting the pooled forest")
        beside = fit_pooled(settings, taking_part, seed) if pooled else None
        merged = folder / "merged.json"
        merged.write_bytes(merge_forests([_forest_file(folder, one) for one in taking_part], beside))
        scores = [_score(settings, one, merged, folder, on_progress) for one in taking_part]
        on_progress("calibrating and registering")
        return register_federated(settings, merged, scores)


def _fit(settings: Settings, institution: str, seed: int, folder: Path, on_progress: OnProgress) -> bool:
    """Let a site fit; tell whether it had enough stays."""
    on_progress(f"fitting at {institution}")
    code = _site(settings, institution, "--seed", str(seed), "--out", str(_forest_file(folder, institution)))
    if code == NotEnoughStaysError.exit_code:
        on_progress(f"{institution} has too few stays and takes no part")
        return False
    _require_done(institution, code)
    return True


def _score(settings: Settings, institution: str, merged: Path, folder: Path, on_progress: OnProgress) -> Path:
    on_progress(f"scoring at {institution}")
    scores = folder / f"{institution}.scores.json"
    _require_done(institution, _site(settings, institution, "--merged", str(merged), "--out", str(scores)))
    return scores


def _site(settings: Settings, institution: str, *arguments: str) -> int:
    command = [sys.executable, "-m", "healthalliance", "federated", "site", "--institution", institution, *arguments]
    environment = {**os.environ, **settings_environment(settings), **dict.fromkeys(_NOT_FOR_SITES, "")}
    # Its errors are for whoever waits; what else it prints is not.
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode


def _require_done(institution: str, code: int) -> None:
    if code:
        kinds = {kind.exit_code: kind for kind in HealthAllianceError.__subclasses__()}
        raise kinds.get(code, HealthAllianceError)(f"The site of {institution} ended with exit code {code}; see above.")


def _forest_file(folder: Path, institution: str) -> Path:
    return folder / f"{institution}.forest.json"
