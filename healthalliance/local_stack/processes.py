"""Start, find and stop the parts' processes; they outlive the process that starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from healthalliance.local_stack.ports import LOOPBACK, is_free
from healthalliance.local_stack.records import LABELS, Part
from schemas.errors import LocalStackError

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 8.0
_POLL_S = 0.05
_TAIL_LINES = 12
_KILL_TIMEOUT_S = 1.5
STOP_SIGNAL = signal.SIGTERM


class GivenUpError(Exception):
    """Another part failed, or the caller gave up."""


class PortTakenError(LocalStackError):
    """Somebody else took the port between choosing and using it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's account that a process runs as; by default the caller's own."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Name the further groups: none, or the caller's own."""
        return None if self.uid is None else []

    def own(self, path: Path) -> None:
        """Make the account the owner of the file or folder."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


OURSELVES = Account()


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a part, and how to tell that it answers."""

    part: Part
    command: Sequence[str]
    folder: Path
    log: Path
    ports: tuple[int, ...]
    address: str
    answers: Callable[[], bool]
    host: str = LOOPBACK
    account: Account = OURSELVES
    stop_signal: signal.Signals = STOP_SIGNAL


def marker(part: Part, data_dir: Path) -> str:
    """Word the argument that tells a part of this data folder from any other process on the machine."""
    return f"healthalliance.part={part}@{data_dir}"


def start(launch: Launch, cancelled: threading.Event) -> psutil.Process:
    """Start the part and wait until it answers; on any failure nothing of it stays.

    Raises LocalStackError with the log's last lines, PortTakenError, or GivenUpError.
    """
    process = _spawn(launch)
    try:
        _wait_until_it_answers(launch, process, cancelled)
    except BaseException:
        stop({process: launch.stop_signal})
        raise
    return process


def _spawn(launch: Launch) -> psutil.Process:
    """Start it in a session of its own, so that a Ctrl-C in the terminal is not sent to it too.

    The environment is bare: no secret of ours reaches it, and no stray variable of the caller's changes it.
    """
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    if launch.log.exists():
        launch.log.replace(launch.log.with_suffix(".log.1"))
    with launch.log.open("wb") as log:
        child = subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=launch.folder,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"},
            start_new_session=True,
            user=launch.account.uid,
            group=launch.account.gid,
            extra_groups=launch.account.groups,
        )
    process = psutil.Process(child.pid)
    child.returncode = 0  # psutil waits for it; left open, Popen would warn when it is collected
    return process


def _wait_until_it_answers(launch: Launch, process: psutil.Process, cancelled: threading.Event) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (_is_taken(launch) and _listens(process, launch.ports) and launch.answers()):
        if cancelled.wait(_POLL_S):
            raise GivenUpError
        if not is_running(process):
            raise _death(launch, process, "ended while it started")
        if time.monotonic() > deadline:
            raise _death(launch, process, f"did not answer within {START_TIMEOUT_S:.0f} s")


def _is_taken(launch: Launch) -> bool:
    """Tell whether anybody listens on the ports: a small part of the cost of the look at who it is."""
    for port in launch.ports:
        with socket.socket() as probe:
            if probe.connect_ex((launch.host, port)) != 0:
                return False
    return True


def _listens(process: psutil.Process, ports: Iterable[int]) -> bool:
    """Tell whether the ports are this very process's, not another's that got there first."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    listening = {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return listening.issuperset(ports)


def _death(launch: Launch, process: psutil.Process, what: str) -> LocalStackError:
    taken = [port for port in launch.ports if not is_free(port) and not _listens(process, (port,))]
    if taken:
        return PortTakenError(f"Port {taken[0]} was taken by another program while {LABELS[launch.part]} started.")
    return LocalStackError(
        f"{LABELS[launch.part]} {what}. Its log, {launch.log}, ends with:\n{tail(launch.log)}\n"
        f"If its data are damaged or of another version, delete {launch.folder} (what it holds is lost) "
        "and start again."
    )


def tail(log: Path) -> str:
    """Read a log's last lines, indented, without the frames of Java's stack traces."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "    (no log)"
    telling = [line for line in lines if line.strip() and not line.startswith("\tat ")]
    return "\n".join(f"    {line[:300]}" for line in telling[-_TAIL_LINES:]) or "    (an empty log)"


def run(
    command: Sequence[str],
    *,
    cancelled: threading.Event,
    account: Account = OURSELVES,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end and return its exit code and output; raise GivenUpError when told to stop."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
        cwd=cwd,
        start_new_session=True,
        user=account.uid,
        group=account.gid,
        extra_groups=account.groups,
    ) as child:
        while True:
            try:
                output, _ = child.communicate(stdin, timeout=0.2)
                return subprocess.CompletedProcess(command, child.returncode, output, "")
            except subprocess.TimeoutExpired:
                stdin = None
            if cancelled.is_set():
                os.killpg(child.pid, signal.SIGKILL)
                raise GivenUpError


def is_running(process: psutil.Process) -> bool:
    """Tell whether the process lives; one that ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find_marked_pid(pid: int, mark: str) -> psutil.Process | None:
    """Find a process by pid if it carries the mark; a later process that was given the pid does not."""
    try:
        process = psutil.Process(pid)
    except psutil.Error:
        return None
    return process if _carries(process, mark) and is_running(process) else None


def find_marked(mark: str) -> list[psutil.Process]:
    """Find every process that carries the mark, remembered or not."""
    return [process for process in psutil.process_iter() if _carries(process, mark)]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return any(argument in (f"-D{mark}", f"--{mark}") for argument in process.cmdline())
    except psutil.Error:
        return False


def stop(
    asked: Mapping[psutil.Process, signal.Signals], timeout_s: float = STOP_TIMEOUT_S
) -> tuple[psutil.Process, ...]:
    """Ask each process to end by its signal and kill what is left after the timeout; return what even survives that."""
    for process, by in asked.items():
        _send(process, by)
    left = _wait_until_gone(asked, timeout_s)
    for process in left:
        _send(process, signal.SIGKILL)
    return _wait_until_gone(left, _KILL_TIMEOUT_S)


def _wait_until_gone(processes: Iterable[psutil.Process], timeout_s: float) -> tuple[psutil.Process, ...]:
    """Wait for processes to end and return those that have not; an ended one that nobody reaps counts as gone."""
    left, deadline = tuple(processes), time.monotonic() + timeout_s
    while True:
        for process in left:
            with suppress(psutil.Error):
                process.wait(timeout=0)  # reaps it if it is our own child
        left = tuple(process for process in left if is_running(process))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_POLL_S)


def _send(process: psutil.Process, by: signal.Signals) -> None:
    try:
        process.send_signal(by)
    except psutil.NoSuchProcess:
        return


def memory_bytes(process: psutil.Process) -> int | None:
    """Measure the resident memory of the process and its children; None when it is gone."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        return total or None
    return total
