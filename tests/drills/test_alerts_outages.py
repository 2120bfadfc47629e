"""Alerts while Kafka, the schema registry or PostgreSQL is away: none is lost, none is told twice."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.local_stack import Part
from tests.integration.alerting import Alerts, Receiver, Scores, Stay, alerts_of
from tests.integration.command_line import of_local_stack
from tests.integration.running import wait_until

pytestmark = pytest.mark.stack

_INSTITUTION = "embl"
_AWAY_S = 3.0


def kill(settings: Settings, part: Part) -> None:
    """Kill a part of the stack, with all its processes."""
    [pid] = [one.pid for one in local_stack.status(settings) if one.part is part]
    assert pid
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        os.kill(one.pid, signal.SIGKILL)
    psutil.wait_procs([process], 10)


def told(receiver: Receiver, stay: Stay) -> bool:
    return any(posted.document["encounter_pseudonym"] == stay.encounter for posted in receiver.posted)


@pytest.mark.timeout(200)
def test_one_process_outlives_the_outage_of_each_part(own_stack: Settings) -> None:
    folder, settings = of_local_stack(own_stack), own_stack.model_copy(update={"alert_timeout_s": 1.0})
    scores, stays = Scores(settings), [Stay(_INSTITUTION) for _ in range(5)]
    with (
        Receiver() as receiver,
        Alerts(settings, "-i", _INSTITUTION, "--sink", "webhook", "--url", receiver.url, "--from-beginning") as alerts,
    ):
        scores.add(stays[0].scored("high"))
        wait_until("the first is told", lambda: told(receiver, stays[0]))
        for part, stay in zip((Part.KAFKA, Part.POSTGRES, Part.REGISTRY), stays[1:], strict=False):
            kill(folder, part)
            time.sleep(_AWAY_S)
            local_stack.up(folder, print)
            scores.add(stay.scored("high"))
            wait_until(f"told after {part} was away", lambda one=stay: told(receiver, one), 120)  # type: ignore[misc]
        # What is on the topic while the database is away is decided once it is there.
        scores.store(stays[4].scored("high"))
        kill(folder, Part.POSTGRES)
        assert stays[4].last
        scores.publish(stays[4].last)
        time.sleep(_AWAY_S)
        assert not told(receiver, stays[4])
        local_stack.up(folder, print)
        wait_until("told after the database was away", lambda: told(receiver, stays[4]), 120)
        wait_until("all are noted", lambda: len(alerts_of(settings, "webhook")) == 5)
        assert alerts.stop() == 0
    assert len(receiver.posted) == 5
