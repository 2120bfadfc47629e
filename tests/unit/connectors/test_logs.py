"""Logs of a process of its own: a line for people, or an object a line that a log store reads."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from connectors.logs import without_values

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


def test_whatever_the_level_libraries_do_not_tell_of_what_they_are_given() -> None:
    program = """
import logging
from connectors.logs import log_to_stderr
from connectors.settings import Settings

log_to_stderr(Settings.model_construct(log_level="DEBUG"))
for name in ("healthalliance.worker", "aiokafka.consumer", "httpx2", "one.nobody.knows"):
    logging.getLogger(name).debug("of %s", name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["healthalliance.worker"]


SOMEBODY = "".join(reversed("enaJ"))  # a traceback shows lines of code, and there it must not stand


@pytest.mark.parametrize(
    "fails",
    [
        lambda: f"{SOMEBODY} \udcff".encode("latin-1").decode(),
        lambda: TypeAdapter(int).validate_json(f'"{SOMEBODY}"'),
        lambda: dict[str, int]()[SOMEBODY],
        lambda: json.loads(SOMEBODY),
    ],
)
def test_what_is_logged_of_an_error_is_its_kind_and_place_alone(fails: Callable[[], object]) -> None:
    """Some cannot be made anew without what they are about, and notes and causes are printed with an error."""
    with pytest.raises((ValueError, KeyError)) as caught:
        fails()
    error = caught.value
    error.add_note(SOMEBODY)
    error.__cause__ = RuntimeError(SOMEBODY)
    assert SOMEBODY in "".join(traceback.format_exception(error))
    told = "".join(traceback.format_exception(without_values(error)))
    assert told.rstrip().endswith(type(error).__name__)
    assert SOMEBODY not in told
    assert "test_logs.py" in told
