"""The HTTP API as a process under this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType

from connectors.settings import Settings, settings_environment
from healthalliance.local_stack.ports import free_port
from schemas.errors import UnavailableError

_READY_S = 90.0
_STOP_S = 20.0


class ApiProcess:
    """The API with `settings`, on its own ports or, where those are taken, free ones; healthy once entered."""

    def __init__(self, settings: Settings) -> None:
        ports = free_port((settings.api_port,)), free_port((settings.api_metrics_port,))
        self._settings = settings.model_copy(update={"api_port": ports[0], "api_metrics_port": ports[1]})
        self.url = f"http://{settings.api_host}:{ports[0]}"
        self.metrics_url = f"http://{settings.metrics_host}:{ports[1]}/metrics"
        self.exit_code: int | None = None  # once it has ended

    def __enter__(self) -> ApiProcess:
        log = self._settings.data_dir / "logs" / "api.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches this process, which stops it in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "healthalliance", "api"],
                env={**os.environ, **settings_environment(self._settings)},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._wait_until_healthy()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self.exit_code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        self.__exit__(None, None, None)
        raise UnavailableError(f"The API did not get ready; look at {self._settings.data_dir / 'logs' / 'api.log'}.")
