"""Apache Kafka in KRaft mode: one node that is broker and controller."""

from __future__ import annotations

import base64
import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.java import Jars
from healthalliance.local_stack.kafka_users import KafkaUsers
from healthalliance.local_stack.ports import LOOPBACK
from healthalliance.local_stack.processes import Launch, marker, run
from healthalliance.local_stack.records import Part
from healthalliance.local_stack.state import write_private
from schemas.errors import LocalStackError

_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Node:
    """A broker and controller of a cluster: its number, host and ports, and every controller's address by number."""

    number: int
    host: str
    ports: tuple[int, int]
    voters: Mapping[int, str]


def only_node(ports: tuple[int, int]) -> Node:
    """Describe the one node of a cluster on loopback; `ports` are its broker's and its controller's."""
    return Node(1, LOOPBACK, ports, {1: f"{LOOPBACK}:{ports[1]}"})


def prepare(
    data_dir: Path,
    jars: Jars,
    node: Node,
    cancelled: threading.Event,
    cluster: str | None = None,
    users: KafkaUsers | None = None,
) -> Launch:
    """Format the storage the first time, for that cluster or a new one, and say how to start the node.

    Without users it takes whoever comes to it, unencrypted.
    """
    folder = data_dir / Part.KAFKA
    cluster = cluster or cluster_id(uuid.uuid4())
    make_once(folder, "log/meta.properties", partial(_format, jars, node, cluster, users, cancelled))
    properties = _write_properties(folder, node, users)
    address = f"{node.host}:{node.ports[0]}"
    heap = ("-Xms256m", "-Xmx1g")
    mark = f"-D{marker(Part.KAFKA, data_dir)}"
    return Launch(
        part=Part.KAFKA,
        command=(*_java(jars), *heap, mark, "kafka.Kafka", str(properties)),
        folder=folder,
        log=data_dir / "logs" / f"{Part.KAFKA}.log",
        ports=node.ports,
        address=address,
        host=node.host,
        answers=partial(_answers, {"bootstrap.servers": address} if users is None else users.client(address)),
    )


def _java(jars: Jars) -> tuple[str, ...]:
    # A quick start counts for more than optimized code: compiling it takes longer than a demo or a test gains by it.
    jvm = ("-XX:TieredStopAtLevel=1",)
    options = ("-Dlog4j2.level=INFO", "-Djava.net.preferIPv4Stack=true", "-Djava.awt.headless=true")
    return (str(jars.java), *jvm, *options, "-cp", f"{jars.kafka}/*")


def _format(
    jars: Jars, node: Node, cluster: str, users: KafkaUsers | None, cancelled: threading.Event, folder: Path
) -> None:
    properties = _write_properties(folder, node, users)
    tool: tuple[str, ...] = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(properties))
    tool += users.first_credentials() if users is not None else ()
    done = run((*_java(jars), *tool), cancelled=cancelled)
    if done.returncode != 0:
        raise LocalStackError(f"Apache Kafka's storage could not be formatted:\n{done.stdout}")


def _write_properties(folder: Path, node: Node, users: KafkaUsers | None) -> Path:
    file = folder / "server.properties"
    write_private(file, server_properties(folder / "log", node, users))
    return file


def cluster_id(drawn: uuid.UUID) -> str:
    """Write a random id as Kafka does, in base64.

    Its first bit is cleared, so that it never begins with a dash, which the tool would take for an option.

    >>> cluster_id(uuid.UUID(int=2**128 - 1))
    'f____________________w'
    """
    number = drawn.int & (2**127 - 1)
    return base64.urlsafe_b64encode(number.to_bytes(16, "big")).decode().rstrip("=")


def server_properties(log_dir: Path, node: Node, users: KafkaUsers | None = None) -> str:
    """Write a node's configuration: its host only, no topic by accident, quick to settle on one machine.

    With several nodes each partition is on up to three of them, and all but one must have what is confirmed.
    """
    broker, controller = (f"{node.host}:{port}" for port in node.ports)
    replicas = min(3, len(node.voters))
    in_sync = max(1, replicas - 1)
    listener = "PLAINTEXT" if users is None else "SASL_SSL"
    properties: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": node.number,
        "controller.quorum.voters": ",".join(f"{number}@{voter}" for number, voter in node.voters.items()),
        "listeners": f"{listener}://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"{listener}://{broker}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir,
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 4,
        "message.max.bytes": 12 * _MEGABYTE,
        "replica.fetch.max.bytes": 12 * _MEGABYTE,
        "group.initial.rebalance.delay.ms": 0,
        # Offsets outlive a holiday, so that a worker that was off for weeks goes on where it stopped.
        "offsets.retention.minutes": 60 * 24 * 90,
        "log.retention.hours": 24 * 30,
        "log.segment.bytes": 256 * _MEGABYTE,
        "log.cleaner.backoff.ms": 1000,
        "log.cleaner.dedupe.buffer.size": 32 * _MEGABYTE,
        # A broker that was killed is let in again when its old session ends; nobody else could take its place.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "controlled.shutdown.enable": "true",
    }
    properties |= {} if users is None else users.broker_properties()
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _answers(client_properties: Mapping[str, Any]) -> bool:
    """Tell whether the broker is let in to serve: it lists itself then."""
    client = AdminClient(dict(client_properties), logger=_SILENT)
    try:
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


_SILENT = logging.Logger("kafka start", level=logging.CRITICAL + 1)
