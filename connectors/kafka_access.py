"""How this client comes to Kafka: encrypted, and as whom; and what a refusal means."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

from connectors.settings import Settings
from schemas.errors import AccessRefusedError, ConfigurationError, HealthAllianceError, UnavailableError

SILENT = "Kafka at KAFKA_BOOTSTRAP_SERVERS does not answer"

_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SECURITY_DISABLED,  # rules are asked for where none are kept
}
_AWAY = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}


def uses_tls(settings: Settings) -> bool:
    """Tell whether connections are encrypted."""
    return settings.kafka_security_protocol in ("SSL", "SASL_SSL")


def uses_sasl(settings: Settings) -> bool:
    """Tell whether this client names a user and proves it by a password."""
    return settings.kafka_security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")


def client_properties(settings: Settings) -> dict[str, Any]:
    """Return what every librdkafka client of these settings begins with; raise ConfigurationError."""
    properties: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": settings.kafka_security_protocol,
    }
    if uses_sasl(settings):
        username, password = sasl_user(settings)
        properties |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": username,
            "sasl.password": password,
        }
    if uses_tls(settings):
        tls_context(settings)  # a file that cannot be used is told by its setting
        properties |= {name: value for name, value in _tls_files(settings).items() if value}
    return properties


def _tls_files(settings: Settings) -> Mapping[str, str]:
    return {
        "ssl.ca.location": settings.kafka_ssl_ca_location,
        "ssl.certificate.location": settings.kafka_ssl_certificate_location,
        "ssl.key.location": settings.kafka_ssl_key_location,
    }


def sasl_user(settings: Settings) -> tuple[str, str]:
    """Return the user and the password; raise ConfigurationError where one is missing."""
    username, password = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
    for name, value in (("KAFKA_SASL_USERNAME", username), ("KAFKA_SASL_PASSWORD", password)):
        if not value:
            raise ConfigurationError(f"{name} is not set, which {settings.kafka_security_protocol} needs.")
    return username, password


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return the rules of an encrypted connection: the broker's name and certificate are checked.

    The authorities are those of KAFKA_SSL_CA_LOCATION, or where it is empty the system's. Raises ConfigurationError.
    """
    authorities = settings.kafka_ssl_ca_location
    try:
        context = ssl.create_default_context(cafile=authorities or None)
    except ssl.SSLError:
        raise ConfigurationError(f"KAFKA_SSL_CA_LOCATION: {authorities} holds no certificate.") from None
    except OSError as error:
        raise ConfigurationError(f"KAFKA_SSL_CA_LOCATION: {authorities} cannot be read: {error.strerror}.") from None
    certificate, key = settings.kafka_ssl_certificate_location, settings.kafka_ssl_key_location
    if bool(certificate) != bool(key):
        raise ConfigurationError("KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION go together.")
    if certificate:
        try:
            context.load_cert_chain(certificate, key, password="")  # a sealed key must not ask at the terminal
        except ssl.SSLError:
            raise ConfigurationError(
                "KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION are no certificate and its unsealed key."
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"KAFKA_SSL_CERTIFICATE_LOCATION or KAFKA_SSL_KEY_LOCATION cannot be read: {error.strerror}."
            ) from None
    return context


class Refusal:
    """Remembers why a broker does not let a client in: librdkafka tells it beside the call that waits (`error_cb`)."""

    def __init__(self) -> None:
        self._error: KafkaError | None = None
        self._hint = ""

    def __call__(self, error: KafkaError) -> None:
        """Take over an error."""
        if error.code() == KafkaError._AUTHENTICATION:
            self._error = error
        elif error.code() == KafkaError._SSL and "disconnected" not in error.str().lower():
            self._error = error  # a broker that is just going away ends handshakes too
        elif error.code() == KafkaError._SSL:
            self._hint = ", or not by the KAFKA_SECURITY_PROTOCOL that is set"

    def forget(self) -> None:
        """Go on as if nothing had been told."""
        self._error, self._hint = None, ""

    def check(self) -> None:
        """Raise AccessRefusedError if the client was refused."""
        if self._error is not None:
            raise refused(self._error)

    def unavailable(self) -> UnavailableError:
        """Say that nothing answers."""
        return UnavailableError(f"{SILENT}{self._hint}.")


def refused(error: KafkaError) -> AccessRefusedError:
    """Say why a client is not let in; what librdkafka says of it may name addresses, but no secret."""
    if error.code() == KafkaError._AUTHENTICATION:
        return AccessRefusedError(
            "Kafka does not know this user or password (KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD)."
        )
    if "verify failed" in error.str().lower():
        return AccessRefusedError("Kafka's certificate is not one that KAFKA_SSL_CA_LOCATION vouches for.")
    return AccessRefusedError(
        "Kafka and this client do not agree on an encrypted connection "
        "(KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION)."
    )


def is_not_allowed(error: KafkaError) -> bool:
    """Tell whether the user lacks a right."""
    return error.code() in _NOT_ALLOWED


def failure(error: KafkaError, what: str) -> HealthAllianceError:
    """Return the error to raise where Kafka did not do something: a right is missing, or it is away.

    >>> failure(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "read risk.dkfz")
    AccessRefusedError('Kafka could not read risk.dkfz: Broker: Topic authorization failed.')
    """
    if error.code() == KafkaError._AUTHENTICATION:
        return refused(error)
    if error.code() in _AWAY:
        return UnavailableError(f"{SILENT}.")
    if is_not_allowed(error):  # a broker may say the whole request with it
        return AccessRefusedError(f"Kafka could not {what}: {KafkaError(error.code()).str()}.")
    return UnavailableError(f"Kafka could not {what}: {error.str()}.")
