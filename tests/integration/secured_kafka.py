"""The local stack's secured broker alone, with a listener for users of certificates too, and no rule yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from connectors.kafka import present_topics
from connectors.settings import Settings
from healthalliance.local_stack import kafka
from healthalliance.local_stack.certificates import Authority
from healthalliance.local_stack.java import ensure_jars
from healthalliance.local_stack.kafka import Node
from healthalliance.local_stack.kafka_users import KafkaUsers
from healthalliance.local_stack.processes import start, stop
from schemas.access import ADMIN
from schemas.errors import HealthAllianceError
from tests.faults.lasting_ports import lasting_ports


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker; `by_password` is its listener of users, `by_certificate` the one of certificates."""

    users: KafkaUsers
    authority: Authority
    by_password: str
    by_certificate: str

    def user(self, name: str, base: Settings) -> Settings:
        """Return settings of a user with its password."""
        return base.model_copy(update={"kafka_bootstrap_servers": self.by_password, **self.users.settings(name)})

    def certified(self, name: str, base: Settings) -> Settings:
        """Return settings of a user with a certificate."""
        certificate, key = self.authority.certificate(name)
        return base.model_copy(
            update={
                "kafka_bootstrap_servers": self.by_certificate,
                "kafka_security_protocol": "SSL",
                "kafka_ssl_ca_location": str(self.users.authority_file),
                "kafka_ssl_certificate_location": str(certificate),
                "kafka_ssl_key_location": str(key),
            }
        )


@contextmanager
def secured_kafka(base: Settings) -> Iterator[SecuredKafka]:
    """Run such a broker, with a password for every user of the rules, and no topic."""
    with TemporaryDirectory(prefix="healthalliance-test-kafka-", ignore_cleanup_errors=True) as name:
        data_dir = Path(name)
        users, authority = KafkaUsers(data_dir), Authority(data_dir)
        users.make()
        by_password, controller, by_certificate = lasting_ports(3)
        node = Node(1, "127.0.0.1", (by_password, controller), {1: f"127.0.0.1:{controller}"})
        broker = SecuredKafka(users, authority, f"127.0.0.1:{by_password}", f"127.0.0.1:{by_certificate}")
        admin, cancelled = broker.certified(ADMIN, base), threading.Event()
        launch = kafka.prepare(data_dir, ensure_jars(print, cancelled), node, cancelled, users=users)
        with (launch.folder / "server.properties").open("a") as file:
            file.write(_certified_listener(authority, node, by_certificate))
        process = start(replace(launch, answers=lambda: _answers(admin)), cancelled)
        try:
            users.let_in(admin)
            yield broker
        finally:
            stop({process: launch.stop_signal})


def _certified_listener(authority: Authority, node: Node, port: int) -> str:
    """Add a listener: the last line of a name counts."""
    password, certified = f"SASL_SSL://127.0.0.1:{node.ports[0]}", f"SSL://127.0.0.1:{port}"
    properties = {
        "listeners": f"{password},{certified},CONTROLLER://127.0.0.1:{node.ports[1]}",
        "advertised.listeners": f"{password},{certified}",
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.ssl.ssl.truststore.type": "PEM",
        "listener.name.ssl.ssl.truststore.location": authority.file,
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _answers(admin: Settings) -> bool:
    try:
        present_topics(admin)
    except HealthAllianceError:
        return False
    return True
