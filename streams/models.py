"""Keep a worker on the newest model of an alias: looked for, checked and warmed up beside the stream."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import NamedTuple

from connectors.models import champion_version, load_champion, load_last_good, load_registered
from connectors.settings import Settings
from schemas.errors import HealthAllianceError, ModelRefusedError, NoModelError, UnavailableError
from schemas.model import Model
from streams import metrics

log = logging.getLogger("healthalliance.worker")

# A refused file may be mended in place, but fetching it anew takes seconds.
_TRY_AGAIN_S = 300.0


class _Refused(NamedTuple):
    version: str
    until: float  # monotonic seconds
    error: ModelRefusedError


class ModelWatch:
    """Looks after one alias; `model` is the one to use, None while there is none."""

    def __init__(self, settings: Settings, alias: str, *, may_be_absent: bool = False) -> None:
        """Watch `alias`; where it `may_be_absent`, taking it away takes the model away, else the old one goes on."""
        self._settings = settings.model_copy(update={"model_alias": alias})
        self._may_be_absent = may_be_absent
        self._refused: _Refused | None = None
        self._trouble: tuple[str, str] | None = None  # reason and text as told last, to tell them once
        self.model: Model | None = None

    @property
    def is_unreachable(self) -> bool:
        """Tell whether the registry was away at the last look."""
        return self._trouble is not None and self._trouble[0] == _UNREACHABLE

    async def first(self) -> None:
        """Load the alias's model, or the last good one where the registry is away or its model is refused.

        Raises as `load_champion` does where there is neither.
        """
        try:
            self.model = await asyncio.to_thread(load_champion, self._settings)
        except ModelRefusedError as error:
            self.model = await asyncio.to_thread(self._last_good, error)
            self._tell(error)

    async def look(self) -> bool:
        """Look for another version; return whether `model` is another one now.

        What cannot be had is told in the log once, counted each time, and the old model goes on.
        """
        before = self.model
        try:
            self.model = await asyncio.to_thread(self._newest)
        except HealthAllianceError as error:
            self._tell(error)
        else:
            self._tell(None)
        return self.model is not before

    def _newest(self) -> Model | None:
        version = champion_version(self._settings)
        if version is None:
            return None if self._may_be_absent else self.model
        if self.model is not None and self.model.version == version:
            return self.model
        refused = self._refused
        if refused is not None and refused.version == version and monotonic() < refused.until:
            raise refused.error
        try:
            return load_registered(self._settings)
        except ModelRefusedError as error:
            self._refused = _Refused(version, monotonic() + _TRY_AGAIN_S, error)
            raise

    def _last_good(self, why: ModelRefusedError) -> Model:
        try:
            return load_last_good(self._settings)
        except UnavailableError:
            raise why from None

    def _tell(self, error: HealthAllianceError | None) -> None:
        if isinstance(error, NoModelError):
            error = None  # taken away between two looks
        if error is None:
            if self.is_unreachable:
                log.info("The model registry gives models again.")
            self._trouble = None
            return
        trouble = _reason(error), str(error)
        metrics.MODEL_REFUSALS.labels(trouble[0]).inc()
        if trouble != self._trouble:
            alias, goes_on = self._settings.model_alias, self.model.version if self.model else "none"
            log.warning("No new %s: %s Version in use: %s.", alias, error, goes_on)
        self._trouble = trouble


_UNREACHABLE = "unreachable"


def _reason(error: HealthAllianceError) -> str:
    if isinstance(error, ModelRefusedError):
        return error.reason
    return _UNREACHABLE if isinstance(error, UnavailableError) else "other"
