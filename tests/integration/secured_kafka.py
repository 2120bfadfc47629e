"""A broker as a careful house runs it: encrypted, no stranger let in, nothing allowed that no rule allows."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from connectors.kafka import Admin, present_topics
from connectors.settings import Settings
from healthalliance.local_stack import kafka
from healthalliance.local_stack.java import ensure_jars
from healthalliance.local_stack.kafka import Node
from healthalliance.local_stack.processes import start, stop
from schemas.access import rules, users
from schemas.errors import HealthAllianceError
from tests.certificates import Authority
from tests.faults.lasting_ports import lasting_ports

_ITERATIONS = 4096
ADMIN = "admin"


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker; `by_password` is its listener of users, `by_certificate` the one of certificates."""

    authority: Authority
    by_password: str
    by_certificate: str
    passwords: dict[str, str]

    def user(self, name: str, base: Settings) -> Settings:
        """Return settings of a user with its password."""
        return base.model_copy(
            update={
                "kafka_bootstrap_servers": self.by_password,
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_username": name,
                "kafka_sasl_password": SecretStr(self.passwords[name]),
                "kafka_ssl_ca_location": str(self.authority.file),
            }
        )

    def certified(self, name: str, base: Settings) -> Settings:
        """Return settings of a user with a certificate."""
        certificate, key = self.authority.certificate(name)
        return base.model_copy(
            update={
                "kafka_bootstrap_servers": self.by_certificate,
                "kafka_security_protocol": "SSL",
                "kafka_ssl_ca_location": str(self.authority.file),
                "kafka_ssl_certificate_location": str(certificate),
                "kafka_ssl_key_location": str(key),
            }
        )


@contextmanager
def secured_kafka(base: Settings) -> Iterator[SecuredKafka]:
    """Run such a broker, with a password for every user of the rules, and no topic or rule yet."""
    with TemporaryDirectory(prefix="healthalliance-test-kafka-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        authority = Authority(folder)
        by_password, controller, by_certificate = lasting_ports(3)
        node = Node(1, "127.0.0.1", (by_password, controller), {1: f"127.0.0.1:{controller}"})
        broker = SecuredKafka(
            authority,
            f"127.0.0.1:{by_password}",
            f"127.0.0.1:{by_certificate}",
            {user: uuid.uuid4().hex for user in users(rules())},
        )
        admin, cancelled = broker.certified(ADMIN, base), threading.Event()
        launch = kafka.prepare(folder / "data", ensure_jars(print, cancelled), node, cancelled)
        with (launch.folder / "server.properties").open("a") as file:
            file.write(_properties(authority, node, by_certificate))
        process = start(replace(launch, answers=lambda: _answers(admin)), cancelled)
        try:
            _set_passwords(admin, broker.passwords)
            yield broker
        finally:
            stop({process: launch.stop_signal})


def _properties(authority: Authority, node: Node, by_certificate: int) -> str:
    """Replace what the local stack's configuration says of listeners: the last line of a name counts."""
    certificate, key = authority.certificate("broker")
    store = certificate.with_suffix(".store.pem")
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    password, certified = f"SASL_SSL://127.0.0.1:{node.ports[0]}", f"SSL://127.0.0.1:{by_certificate}"
    properties = {
        "listeners": f"{password},{certified},CONTROLLER://127.0.0.1:{node.ports[1]}",
        "advertised.listeners": f"{password},{certified}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.controller.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": store,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.file,
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:broker;User:{ADMIN}",
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _answers(admin: Settings) -> bool:
    try:
        present_topics(admin)
    except HealthAllianceError:
        return False
    return True


def _set_passwords(admin: Settings, passwords: dict[str, str]) -> None:
    client = Admin(admin)
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, info, password.encode()) for user, password in passwords.items()
    ]
    for user, future in client.client.alter_user_scram_credentials(wanted).items():
        client.answer(future, f"set the password of {user}")
