"""Apache Kafka in KRaft mode: one node that is broker and controller."""

from __future__ import annotations

import base64
import logging
import threading
import uuid
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.java import Jars
from healthalliance.local_stack.processes import Launch, marker, run
from healthalliance.local_stack.records import Part
from schemas.errors import LocalStackError

_MEGABYTE = 1024 * 1024


def prepare(data_dir: Path, jars: Jars, ports: tuple[int, int], cancelled: threading.Event) -> Launch:
    """Format the storage the first time and say how to start the broker; `ports` are its and its controller's."""
    folder = data_dir / Part.KAFKA
    make_once(folder, "log/meta.properties", partial(_format, jars, ports, cancelled))
    properties = folder / "server.properties"
    properties.write_text(server_properties(folder / "log", ports))
    address = f"127.0.0.1:{ports[0]}"
    heap = ("-Xms256m", "-Xmx1g")
    mark = f"-D{marker(Part.KAFKA, data_dir)}"
    return Launch(
        part=Part.KAFKA,
        command=(*_java(jars), *heap, mark, "kafka.Kafka", str(properties)),
        folder=folder,
        log=data_dir / "logs" / f"{Part.KAFKA}.log",
        ports=ports,
        address=address,
        answers=partial(_answers, address),
    )


def _java(jars: Jars) -> tuple[str, ...]:
    options = ("-Dlog4j2.level=INFO", "-Djava.net.preferIPv4Stack=true", "-Djava.awt.headless=true")
    return (str(jars.java), *options, "-cp", f"{jars.kafka}/*")


def _format(jars: Jars, ports: tuple[int, int], cancelled: threading.Event, folder: Path) -> None:
    properties = folder / "server.properties"
    properties.write_text(server_properties(folder / "log", ports))
    tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id(uuid.uuid4()), "--config", str(properties))
    done = run((*_java(jars), "-XX:TieredStopAtLevel=1", *tool), cancelled=cancelled)
    if done.returncode != 0:
        raise LocalStackError(f"Apache Kafka's storage could not be formatted:\n{done.stdout}")


def cluster_id(drawn: uuid.UUID) -> str:
    """Write a random id as Kafka does, in base64.

    Its first bit is cleared, so that it never begins with a dash, which the tool would take for an option.

    >>> cluster_id(uuid.UUID(int=2**128 - 1))
    'f____________________w'
    """
    number = drawn.int & (2**127 - 1)
    return base64.urlsafe_b64encode(number.to_bytes(16, "big")).decode().rstrip("=")


def server_properties(log_dir: Path, ports: tuple[int, int]) -> str:
    """Write the broker's configuration: loopback only, no topic by accident, quick to settle on one machine."""
    broker, controller = (f"127.0.0.1:{port}" for port in ports)
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir,
        "auto.create.topics.enable": "false",
        "default.replication.factor": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
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
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _answers(address: str) -> bool:
    """Tell whether the broker is let in to serve: it lists itself then."""
    client = AdminClient({"bootstrap.servers": address}, logger=_SILENT)
    try:
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


_SILENT = logging.Logger("kafka start", level=logging.CRITICAL + 1)
