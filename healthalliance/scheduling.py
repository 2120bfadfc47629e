"""Do something again and again, at a fixed pace, until interrupted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta

from schemas.errors import ConfigurationError, HealthAllianceError

_EVERY = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def interval(text: str) -> timedelta:
    """Read an interval such as 30m, 24h or 7d; raise ConfigurationError for anything else.

    >>> interval("24h")
    datetime.timedelta(days=1)
    """
    match = _EVERY.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"--every {text}: give a number and a unit, such as 30m, 24h or 7d.")
    return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})


def run_every(
    every: timedelta,
    run: Callable[[], None],
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run now and then at every interval from the start of the run before, at once where that took longer.

    A run that fails is told in one line and tried again next time. Returns when interrupted (KeyboardInterrupt),
    whether it waits or a run is going on.
    """
    try:
        while True:
            started = clock()
            try:
                run()
            except HealthAllianceError as error:
                say(f"{error} Trying again in {every}.")
            except Exception as error:  # one failing run must not end those to come; its words may name a patient
                say(f"The run failed ({type(error).__name__}). Trying again in {every}.")
            sleep(max(0.0, every.total_seconds() - (clock() - started)))
    except KeyboardInterrupt:
        say("Stopped.")
