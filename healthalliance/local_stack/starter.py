"""Start the missing parts side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import psutil

from healthalliance.local_stack import kafka, postgres, processes, registry
from healthalliance.local_stack.java import Jars, ensure_jars, have_jars
from healthalliance.local_stack.processes import Cancelled, Launch, PortTakenError
from healthalliance.local_stack.records import Part, Progress, Report
from healthalliance.local_stack.state import Ports, Running, State, ensure_secrets

_PORT_TRIES = 5


class Starter:
    """Starts parts of one data folder; the first failure stops all that it started."""

    def __init__(self, data_dir: Path, ports: Ports, remembered: State, report: Report) -> None:
        self._data_dir = data_dir
        self._ports = ports
        self._remembered = remembered
        self._report = report
        self._cancelled = threading.Event()
        self._choosing_ports = threading.Lock()
        self._chosen: set[int] = set()

    def start(self, parts: Collection[Part]) -> State:
        """Start the parts and return where they run; raise LocalStackError when one does not start."""
        with ThreadPoolExecutor(len(parts) + 1, thread_name_prefix="local-stack") as pool:
            jars = pool.submit(self._jars, parts)
            starting = {part: pool.submit(self._start, part, jars) for part in parts}
            try:
                wait(starting.values(), return_when=FIRST_EXCEPTION)
            finally:
                if not all(future.done() and future.exception() is None for future in starting.values()):
                    self._cancelled.set()
                    _stop_started(starting.values())
        _raise_first_failure(starting.values())
        return {part: future.result() for part, future in starting.items()}

    def _jars(self, parts: Collection[Part]) -> Jars | None:
        if not {Part.KAFKA, Part.REGISTRY} & set(parts):
            return None
        if not have_jars(self._data_dir):
            self._report(Progress(None, "fetches Kafka and the schema registry with Maven (once)"))
        return ensure_jars(self._data_dir, self._cancelled)

    def _start(self, part: Part, jars: Future[Jars | None]) -> Running:
        for tries_left in reversed(range(_PORT_TRIES)):
            began = time.monotonic()
            launch = self._prepare(part, jars)
            try:
                process = processes.start(launch, self._cancelled)
            except PortTakenError:
                if not tries_left:
                    raise
            else:
                seconds = time.monotonic() - began
                self._report(Progress(part, f"answers at {launch.address} after {seconds:.1f} s"))
                return Running(process.pid, process.create_time(), launch.ports, launch.address)
        raise AssertionError

    def _prepare(self, part: Part, jars: Future[Jars | None]) -> Launch:
        if part is Part.POSTGRES:
            (port,) = self._choose_ports(part, self._ports.postgres)
            secrets = ensure_secrets(self._data_dir)
            return postgres.prepare(self._data_dir, secrets, port, self._report, self._cancelled)
        have = jars.result()
        if have is None:
            raise AssertionError(f"{part} needs Java")
        if part is Part.REGISTRY:
            (port,) = self._choose_ports(part, self._ports.registry)
            return registry.prepare(self._data_dir, have, port)
        broker, controller = self._choose_ports(part, self._ports.kafka, self._ports.kafka_controller)
        return kafka.prepare(self._data_dir, have, (broker, controller), self._cancelled)

    def _choose_ports(self, part: Part, *wanted: int) -> tuple[int, ...]:
        """Choose the ports that the part had before a crash, else the wanted ones, else any that are free."""
        before = self._remembered[part].ports if part in self._remembered else wanted
        with self._choosing_ports:
            return tuple(self._choose_port(part, (old, new)) for old, new in zip(before, wanted, strict=True))

    def _choose_port(self, part: Part, preferred: tuple[int, int]) -> int:
        port = processes.free_port(preferred, avoid=self._chosen)
        self._chosen.add(port)
        if port not in preferred:
            self._report(Progress(part, f"takes port {port}, as another program has {preferred[1]}"))
        return port


def _stop_started(starting: Iterable[Future[Running]]) -> None:
    """Wait for the cancelled starts to end, then stop those that were through already."""
    futures = list(starting)
    wait(futures)
    started = [future.result() for future in futures if future.exception() is None]
    processes.stop({psutil.Process(running.pid): running.stop_signal for running in started})


def _raise_first_failure(starting: Iterable[Future[Running]]) -> None:
    failures = [failure for future in starting if (failure := future.exception()) is not None]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, Cancelled)):
        raise failure
