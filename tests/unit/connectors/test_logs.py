"""Logs of a process of its own: a line for people, or an object a line that a log store reads."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from typing import Any

import pytest

TRACE = "0af7651916cd43dd8448eb211c80319c"
PROGRAM = f"""
import logging
from structlog.contextvars import bound_contextvars
from connectors.logs import log_to_stderr
from connectors.settings import Settings
from connectors.tracing import span

log_to_stderr(Settings.model_construct(log_format="FORMAT"))
log = logging.getLogger("healthalliance.worker")
with bound_contextvars(batch=["encounters.embl/0:3-7"]), span("x", parent=b"00-{TRACE}-b7ad6b7169203331-01"):
    log.warning("Over\\ntwo lines, %s.", "said \\"so\\"")
try:
    1 / 0
except ZeroDivisionError:
    log.critical("Ending.", exc_info=True)
log.debug("nothing")
logging.getLogger("aiokafka").info("chat")
"""


def lines_of(format_: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM.replace("FORMAT", format_)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of("json")]


def test_an_event_is_one_line_with_its_time_in_utc(entries: list[dict[str, Any]]) -> None:
    assert [one["message"] for one in entries] == ['Over\ntwo lines, said "so".', "Ending."]
    assert [one["level"] for one in entries] == ["warning", "critical"]
    assert {one["logger"] for one in entries} == {"healthalliance.worker"}
    for one in entries:
        offset = datetime.fromisoformat(one["time"]).utcoffset()
        assert offset is not None
        assert not offset


def test_it_says_what_was_worked_on_and_in_which_trace(entries: list[dict[str, Any]]) -> None:
    first, second = entries
    assert (first["batch"], first["trace_id"]) == (["encounters.embl/0:3-7"], TRACE)
    assert not {"batch", "trace_id"} & second.keys()


def test_an_exception_stays_within_its_line(entries: list[dict[str, Any]]) -> None:
    assert entries[1]["exception"].endswith("ZeroDivisionError: division by zero")


def test_as_text_it_is_for_people() -> None:
    assert lines_of("text")[0].endswith(" WARNING healthalliance.worker: Over")
