"""Kafka nodes of the tests' own: on any address, several of one cluster, killed and started one by one."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient

from connectors.settings import Settings
from healthalliance.local_stack import kafka
from healthalliance.local_stack.java import ensure_jars
from healthalliance.local_stack.kafka import Node
from healthalliance.local_stack.processes import Launch, is_running, start, stop
from schemas.errors import LocalStackError
from tests.faults.lasting_ports import lasting_ports

_BACK_S = 180.0


def folder_beside(settings: Settings) -> Path:
    """Name a new folder beside a stack's own, which is emptied when the stack starts."""
    return settings.data_dir.resolve().with_name(f"{settings.data_dir.name}-kafka") / str(time.time_ns())


def _start(launch: Launch, cancelled: threading.Event) -> psutil.Process:
    """Start a node; one that hangs once more, as a service manager would."""
    try:
        return start(launch, cancelled)
    except LocalStackError as error:
        print(error, "Starting it once more.", file=sys.stderr)
        return start(launch, cancelled)


@dataclass
class Cluster:
    """Combined brokers and controllers in folders below one; the first node's address is enough to find all."""

    folder: Path
    host: str = "127.0.0.1"
    size: int = 1
    nodes: list[Node] = field(default_factory=list)
    running: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = lasting_ports(2 * self.size)
        pairs = list(zip(taken[::2], taken[1::2], strict=True))
        voters = {number: f"{self.host}:{controller}" for number, (_, controller) in enumerate(pairs, start=1)}
        self.nodes = [Node(number, self.host, pair, voters) for number, pair in enumerate(pairs, start=1)]
        self._cluster_id = kafka.cluster_id(uuid.uuid4())

    @property
    def addresses(self) -> str:
        """All brokers' addresses."""
        return ",".join(f"{node.host}:{node.ports[0]}" for node in self.nodes)

    def start(self, numbers: Sequence[int] | None = None) -> None:
        """Start the nodes of these numbers, or all, side by side, and wait until they answer."""
        cancelled, jars = threading.Event(), ensure_jars(lambda _: None, threading.Event())
        launches = {
            node.number: kafka.prepare(self.folder / str(node.number), jars, node, cancelled, self._cluster_id)
            for node in self.nodes
            if numbers is None or node.number in numbers
        }
        failures: list[BaseException] = []

        def run(number: int) -> None:
            try:
                self.running[number] = _start(launches[number], cancelled)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in launches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def kill(self, number: int) -> None:
        """Kill a node as a power cut would."""
        stop({self.running[number]: signal.SIGKILL})

    def stop(self) -> None:
        """Kill what runs; nobody needs its data any more."""
        stop({one: signal.SIGKILL for one in self.running.values() if is_running(one)})

    def leader(self, topic: str, partition: int) -> int:
        """Return the number of the node that leads a partition."""
        metadata = AdminClient({"bootstrap.servers": self.addresses}).list_topics(topic, timeout=15)
        return int(metadata.topics[topic].partitions[partition].leader)

    def wait_until_in_sync(self) -> None:
        """Wait until every partition has all its replicas in sync."""
        admin, deadline = AdminClient({"bootstrap.servers": self.addresses}), time.monotonic() + _BACK_S
        while True:
            topics = admin.list_topics(timeout=15).topics.values()
            partitions = [one for topic in topics for one in topic.partitions.values()]
            if all(len(one.isrs) == len(one.replicas) for one in partitions):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"replicas are out of sync after {_BACK_S:.0f} s")
            time.sleep(0.5)
