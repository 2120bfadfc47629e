"""Train as the command line does: one run at a time, wherever it runs."""

from __future__ import annotations

from dataclasses import replace

from connectors.settings import Settings
from connectors.training_lock import only_training_run
from healthalliance.auditing import note_access
from model_training.backends import Backend
from model_training.job import OnProgress, Options, TrainingResult, train
from schemas.audit import EVERYBODY, Action


def chosen_options(backend: str, *, force: bool, note: str | None) -> Options:
    """Return the job's options; its own words of the data where there is no note."""
    chosen = Options(Backend(backend), force)
    return chosen if note is None else replace(chosen, note=note)


def train_alone(settings: Settings, seed: int, options: Options, on_progress: OnProgress) -> TrainingResult:
    """Train while nobody else does, and note which version got which alias.

    Raises as `train` does, and TrainingUnderWayError where somebody does.
    """
    with only_training_run(settings.database_url, settings.model_name):
        result = train(settings, seed, on_progress, options=options)
        note_access(settings, Action.TRAIN, EVERYBODY, [f"model:{settings.model_name}/{result.version}/{result.alias}"])
        return result
