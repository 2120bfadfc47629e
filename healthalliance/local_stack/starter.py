"""Start the missing parts side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import psutil

from healthalliance.local_stack import kafka, postgres, processes, registry
from healthalliance.local_stack.java import ensure_jars
from healthalliance.local_stack.kafka_users import KafkaUsers
from healthalliance.local_stack.ports import Ports, free_port, wait_until_free
from healthalliance.local_stack.processes import GivenUpError, Launch, PortTakenError
from healthalliance.local_stack.records import LABELS, Part, Say
from healthalliance.local_stack.state import Running, State

_PORT_TRIES = 5
_LETTING_GO_S = 5.0


class Starter:
    """Starts parts of one data folder; the first failure stops all that it started."""

    def __init__(self, data_dir: Path, ports: Ports, remembered: State, say: Say, *, secured: bool) -> None:
        self._data_dir = data_dir
        self._remembered = remembered
        self._say = say
        self._secured = secured
        self._wanted = {
            Part.KAFKA: (ports.kafka, ports.kafka_controller),
            Part.REGISTRY: (ports.registry,),
            Part.POSTGRES: (ports.postgres,),
        }
        self._cancelled = threading.Event()
        self._choosing_ports = threading.Lock()
        self._chosen: set[int] = set()

    def start(self, parts: Collection[Part]) -> State:
        """Start the parts and return where they run; raise LocalStackError when one does not start."""
        with ThreadPoolExecutor(len(parts), thread_name_prefix="local-stack") as pool:
            starting = {part: pool.submit(self._start, part) for part in parts}
            try:
                wait(starting.values(), return_when=FIRST_EXCEPTION)
            finally:
                if not all(future.done() and future.exception() is None for future in starting.values()):
                    self._cancelled.set()
                    _stop_started(starting)
        _raise_first_failure(starting.values())
        return {part: future.result() for part, future in starting.items()}

    def _start(self, part: Part) -> Running:
        for tries_left in reversed(range(_PORT_TRIES)):
            began = time.monotonic()
            launch = self._prepare(part)
            try:
                process = processes.start(launch, self._cancelled)
            except PortTakenError:
                if not tries_left:
                    raise
                continue
            seconds = time.monotonic() - began
            self._say(f"{LABELS[part]} answers at {launch.address} after {seconds:.1f} s")
            return Running(process.pid, process.create_time(), launch.ports, launch.address)
        raise AssertionError("the last try returns or raises")

    def _prepare(self, part: Part) -> Launch:
        if part is Part.POSTGRES:
            return postgres.prepare(self._data_dir, self._choose_ports(part)[0], self._say, self._cancelled)
        jars = ensure_jars(self._say, self._cancelled)
        if part is Part.REGISTRY:
            return registry.prepare(self._data_dir, jars, self._choose_ports(part)[0])
        broker, controller = self._choose_ports(part)
        users = KafkaUsers(self._data_dir)
        if self._secured and not (self._data_dir / Part.KAFKA).exists():
            users.make()
        node = kafka.only_node((broker, controller))
        return kafka.prepare(self._data_dir, jars, node, self._cancelled, users=users if users.exist else None)

    def _choose_ports(self, part: Part) -> tuple[int, ...]:
        """Choose the ports that the part had before a crash, else the wanted ones, else any that are free."""
        wanted = self._wanted[part]
        before = self._remembered[part].ports if part in self._remembered else wanted
        if part in self._remembered:  # who uses it knows it by these
            for port in before:
                wait_until_free(port, _LETTING_GO_S)
        with self._choosing_ports:
            return tuple(self._choose_port(part, (old, new)) for old, new in zip(before, wanted, strict=True))

    def _choose_port(self, part: Part, preferred: tuple[int, int]) -> int:
        others = {port for ports in self._wanted.values() for port in ports} - set(preferred)
        port = free_port(preferred, avoid=self._chosen | others)
        self._chosen.add(port)
        if port not in preferred:
            self._say(f"{LABELS[part]} takes port {port}: another program has {preferred[1]}")
        return port


def _stop_started(starting: dict[Part, Future[Running]]) -> None:
    """Wait for the cancelled starts to end, then stop those that were through already."""
    wait(starting.values())
    processes.stop(
        {
            psutil.Process(future.result().pid): postgres.STOP_SIGNAL
            if part is Part.POSTGRES
            else processes.STOP_SIGNAL
            for part, future in starting.items()
            if future.exception() is None
        }
    )


def _raise_first_failure(starting: Iterable[Future[Running]]) -> None:
    failures = [failure for future in starting if (failure := future.exception()) is not None]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, GivenUpError)):
        raise failure
