"""Who comes to the local stack's Kafka: encrypted, each user of the access rules with a password of its own."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from connectors.kafka import Admin
from connectors.kafka_access import client_properties
from connectors.kafka_acls import add_rules, kept_rules, remove_rules
from connectors.settings import Settings
from healthalliance.local_stack.certificates import Authority
from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.state import write_private
from schemas.access import ADMIN, changes, rules, users
from schemas.errors import LocalStackError

_FOLDER = "kafka-users"
_PASSWORDS = "passwords.json"
_BROKER = "broker"
_ITERATIONS = 4096  # Kafka's least: these passwords are random
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"


class KafkaUsers:
    """The passwords and certificates in a data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / _FOLDER

    def make(self) -> None:
        """Make an authority, the broker's certificate, and passwords of those who must be there first; once."""
        make_once(self._folder, _PASSWORDS, _fill)

    @property
    def exist(self) -> bool:
        """Tell whether the stack was made with users; one that was made without goes on so."""
        return self._folder.exists()

    def passwords(self) -> dict[str, str]:
        """Read each user's password."""
        return {str(user): str(word) for user, word in json.loads((self._folder / _PASSWORDS).read_text()).items()}

    @property
    def authority_file(self) -> Path:
        """Return the certificate of the authority that vouches for the broker."""
        return self._folder / "ca.pem"

    def settings(self, user: str) -> dict[str, object]:
        """Return the settings that let a client in as this user; raise LocalStackError where it has no password yet."""
        word = self.passwords().get(user)
        if word is None:
            raise LocalStackError(f"The local Kafka does not know {user} yet: `healthalliance up` lets it in.")
        return {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_sasl_username": user,
            "kafka_sasl_password": SecretStr(word),
            "kafka_ssl_ca_location": str(self.authority_file),
            "kafka_ssl_certificate_location": "",
            "kafka_ssl_key_location": "",
        }

    def broker_properties(self) -> dict[str, object]:
        """Return what a broker's configuration says of users; its listeners are named SASL_SSL and CONTROLLER."""
        own = f'username="{_BROKER}" password="{self.passwords()[_BROKER]}"'
        return {
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:SSL",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_SCRAM} {own};",
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._folder / f"{_BROKER}.store.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority_file,
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{_BROKER};User:{ADMIN}",
        }

    def client(self, address: str) -> dict[str, Any]:
        """Return what a client of the administrator begins with."""
        return client_properties(
            Settings.model_construct(kafka_bootstrap_servers=address, **self.settings(ADMIN))  # type: ignore[arg-type]
        )

    def first_credentials(self) -> tuple[str, ...]:
        """Return the options with which storage is formatted, so that the broker and its administrator get in."""
        words = self.passwords()
        return tuple(
            part
            for user in (_BROKER, ADMIN)
            for part in ("--add-scram", f"SCRAM-SHA-512=[name={user},iterations={_ITERATIONS},password={words[user]}]")
        )

    def let_in(self, admin: Settings) -> None:
        """Have the broker know every user's password; users of new institutions get one."""
        words = self.passwords()
        new = {user: secrets.token_urlsafe(24) for user in users(rules()) if user not in words}
        if new:
            _write_passwords(self._folder, words | new)
        _let_in(admin, {user: word for user, word in (words | new).items() if user not in (_BROKER, ADMIN)})

    def apply_rules(self, admin: Settings) -> None:
        """Have the broker keep the declared rules, and no others of these users."""
        todo = changes(rules(worker_group=admin.consumer_group), kept_rules(admin).rules)
        add_rules(admin, todo.add)
        remove_rules(admin, todo.remove)


def _fill(folder: Path) -> None:
    folder.chmod(0o700)
    certificate, key = Authority(folder).certificate(_BROKER)
    write_private(certificate.with_suffix(".store.pem"), key.read_text() + certificate.read_text())
    _write_passwords(folder, {user: secrets.token_urlsafe(24) for user in (_BROKER, ADMIN, *users(rules()))})


def _write_passwords(folder: Path, words: dict[str, str]) -> None:
    write_private(folder / _PASSWORDS, json.dumps(words, indent=2) + "\n")


def _let_in(admin: Settings, words: dict[str, str]) -> None:
    client = Admin(admin)
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS)
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, info, word.encode()) for user, word in words.items()
    ]
    for user, future in client.client.alter_user_scram_credentials(wanted).items():
        client.answer(future, f"set the password of {user}")
