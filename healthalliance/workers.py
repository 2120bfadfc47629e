"""Worker processes under this one: started, watched, started again, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from connectors.settings import Settings, settings_environment

_STOP_S = 8.0
_RESTART_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How many processes, whether they only fold and featurize, where their log goes (None: to stderr).

    command: what `worker` and its options are appended to.
    """

    processes: int = 1
    history_only: bool = False
    log_file: Path | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "healthalliance")


class WorkerProcesses:
    """Worker processes of `settings`; a process that ends by itself is started again after a second."""

    def __init__(self, settings: Settings, options: WorkerOptions) -> None:
        self._settings, self._options = settings, options
        self._running: list[subprocess.Popen[bytes]] = []
        self.restarts = 0

    def __enter__(self) -> WorkerProcesses:
        self._running = [self._start(number) for number in range(self._options.processes)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def watch(self) -> None:
        """Start again what has ended."""
        for number, process in enumerate(self._running):
            if process.poll() is not None:
                self.restarts += 1
                time.sleep(_RESTART_AFTER_S)
                self._running[number] = self._start(number)

    def ports(self) -> list[int]:
        """List the processes' health and metrics ports."""
        return [self._settings.metrics_port + number for number in range(self._options.processes)]

    def pids(self) -> list[int]:
        """List the processes' ids."""
        return [process.pid for process in self._running]

    def stop(self) -> None:
        """Ask all to stop, and kill what has not after 8 s."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in self._running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = []

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [*self._options.command, "worker", "--metrics-port", str(self.ports()[number])]
        if self._options.history_only:
            command.append("--history-only")
        # A session of its own: Ctrl-C reaches this process, which stops the workers in order.
        variables = {**os.environ, **settings_environment(self._settings)}
        if self._options.log_file is None:
            return subprocess.Popen(command, env=variables, start_new_session=True)
        self._options.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._options.log_file.open("ab") as log:
            return subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
