from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from healthalliance.local_stack import processes
from healthalliance.local_stack.ports import free_port, is_free
from healthalliance.local_stack.processes import GivenUpError, Launch, PortTakenError
from healthalliance.local_stack.records import Part
from schemas.errors import LocalStackError

LISTEN = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); {then} time.sleep(60)"
NEVER = threading.Event()


@pytest.fixture
def port() -> int:
    return free_port(())


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def launch(folder: Path, port: int, code: str, *, answers: bool = True) -> Launch:
    mark = f"--{processes.marker(Part.KAFKA, folder)}"
    command = (sys.executable, "-c", code, str(port), mark)
    log = folder / "logs" / "kafka.log"
    return Launch(Part.KAFKA, command, folder, log, (port,), f"127.0.0.1:{port}", lambda: answers)


def test_a_started_part_has_its_own_session_no_input_and_a_bare_environment(tmp_path: Path, port: int) -> None:
    process = processes.start(launch(tmp_path, port, LISTEN.format(then="")), NEVER)
    try:
        assert os.getsid(process.pid) == process.pid
        assert Path(f"/proc/{process.pid}/fd/0").readlink() == Path("/dev/null")
        assert set(process.environ()) <= {"PATH", "LANG", "TZ", "LC_CTYPE"}
        mark = processes.marker(Part.KAFKA, tmp_path)
        assert processes.find_marked(mark) == [process] == [processes.find_marked_pid(process.pid, mark)]
        assert processes.find_marked_pid(process.pid, processes.marker(Part.KAFKA, tmp_path / "other")) is None
    finally:
        assert processes.stop({process: signal.SIGTERM}) == ()
    assert not processes.is_running(process)


def test_a_part_that_dies_is_quoted_with_its_log(tmp_path: Path, port: int) -> None:
    code = "print('first'); print('\\tat a.frame.of.a(Stack.java)'); raise SystemExit('no space left')"
    with pytest.raises(LocalStackError) as caught:
        processes.start(launch(tmp_path, port, code), NEVER)
    text = str(caught.value)
    assert "Apache Kafka ended while it started" in text
    assert "no space left" in text
    assert "Stack.java" not in text
    assert str(tmp_path / "logs" / "kafka.log") in text


def test_a_port_that_another_program_takes_meanwhile_is_told_apart(tmp_path: Path, taken: int) -> None:
    with pytest.raises(PortTakenError, match=str(taken)):
        processes.start(launch(tmp_path, taken, LISTEN.format(then="")), NEVER)


def test_a_part_that_listens_but_never_answers_is_not_taken_for_another_program(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "START_TIMEOUT_S", 2.0)
    with pytest.raises(LocalStackError, match="did not answer within 2 s") as caught:
        processes.start(launch(tmp_path, port, LISTEN.format(then=""), answers=False), NEVER)
    assert not isinstance(caught.value, PortTakenError)


def test_a_start_that_is_given_up_leaves_nothing(tmp_path: Path, port: int) -> None:
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    with pytest.raises(GivenUpError):
        processes.start(launch(tmp_path, port, LISTEN.format(then=""), answers=False), cancelled)
    assert processes.find_marked(processes.marker(Part.KAFKA, tmp_path)) == []


def test_the_log_of_the_run_before_is_kept(tmp_path: Path, port: int) -> None:
    for text in ("first run", "second run"):
        with pytest.raises(LocalStackError):
            processes.start(launch(tmp_path, port, f"raise SystemExit('{text}')"), NEVER)
    assert "first run" in (tmp_path / "logs" / "kafka.log.1").read_text()
    assert "second run" in (tmp_path / "logs" / "kafka.log").read_text()


def test_who_does_not_end_when_asked_is_killed(tmp_path: Path, port: int) -> None:
    deaf = LISTEN.format(
        then="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"
    )
    process = processes.start(launch(tmp_path, port, deaf), NEVER)
    while "deaf" not in (tmp_path / "logs" / "kafka.log").read_text():
        time.sleep(0.02)
    assert processes.stop({process: signal.SIGTERM}, timeout_s=0.3) == ()
    assert not processes.is_running(process)


def test_a_command_runs_to_its_end_with_input_and_output(tmp_path: Path) -> None:
    done = processes.run([sys.executable, "-c", "print(input() + '!')"], cancelled=NEVER, stdin="hello\n", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "hello!\n")


def test_a_command_that_is_given_up_is_killed() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(GivenUpError):
        processes.run([sys.executable, "-c", "import time; time.sleep(60)"], cancelled=cancelled)
    alive = [child for child in psutil.Process().children() if processes.is_running(child)]
    assert not [child for child in alive if "time.sleep(60)" in " ".join(child.cmdline())]


def test_the_first_free_preferred_port_is_chosen(port: int, taken: int) -> None:
    assert free_port((taken, port)) == port
    other = free_port((taken, port), avoid={port})
    assert other not in (taken, port)
    assert is_free(other)
    assert not is_free(taken)
