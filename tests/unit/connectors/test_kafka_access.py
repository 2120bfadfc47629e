"""How a client comes to Kafka: what it is given, and what is wrong with the settings is said before it tries."""

from __future__ import annotations

from pathlib import Path

import faust
import pytest
from confluent_kafka import KafkaError
from pydantic import SecretStr

from connectors.kafka_access import Refusal, client_properties, failure, tls_context
from connectors.settings import Settings
from healthalliance.local_stack.certificates import Authority
from schemas.errors import AccessRefusedError, ConfigurationError, UnavailableError
from streams.app import credentials

SECRET = "correct horse battery staple"


def settings_of(protocol: str, **given: object) -> Settings:
    plain = {"kafka_bootstrap_servers": "broker:1", "kafka_security_protocol": protocol}
    return Settings(_env_file=None).model_copy(update={**plain, **given})


def user(**given: object) -> dict[str, object]:
    return {"kafka_sasl_username": "worker", "kafka_sasl_password": SecretStr(SECRET), **given}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_in_plain_text_nothing_but_the_address_is_given() -> None:
    given = settings_of("PLAINTEXT", **user())
    assert client_properties(given) == {"bootstrap.servers": "broker:1", "security.protocol": "PLAINTEXT"}
    assert credentials(given) is None


def test_a_user_is_named_to_both_clients(authority: Authority) -> None:
    given = settings_of("SASL_SSL", **user(kafka_ssl_ca_location=str(authority.file)))
    assert client_properties(given) == {
        "bootstrap.servers": "broker:1",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "worker",
        "sasl.password": SECRET,
        "ssl.ca.location": str(authority.file),
    }
    found = credentials(given)
    assert isinstance(found, faust.SASLCredentials)
    assert (found.protocol.value, found.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (found.username, found.password) == ("worker", SECRET)
    assert found.ssl_context is not None
    assert found.ssl_context.check_hostname
    assert SECRET not in repr(found)


def test_without_encryption_a_user_is_named_too() -> None:
    found = credentials(settings_of("SASL_PLAINTEXT", **user(kafka_sasl_mechanism="SCRAM-SHA-256")))
    assert isinstance(found, faust.SASLCredentials)
    assert (found.protocol.value, found.mechanism.value) == ("SASL_PLAINTEXT", "SCRAM-SHA-256")


def test_a_certificate_instead_of_a_user(authority: Authority) -> None:
    certificate, key = authority.certificate("worker")
    given = settings_of(
        "SSL",
        kafka_ssl_ca_location=str(authority.file),
        kafka_ssl_certificate_location=str(certificate),
        kafka_ssl_key_location=str(key),
    )
    properties = client_properties(given)
    assert (properties["ssl.certificate.location"], properties["ssl.key.location"]) == (str(certificate), str(key))
    assert "sasl.username" not in properties
    assert isinstance(credentials(given), faust.SSLCredentials)


def test_without_authorities_the_systems_are_taken() -> None:
    assert "ssl.ca.location" not in client_properties(settings_of("SSL"))
    assert tls_context(settings_of("SSL")).check_hostname


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize(
    ("missing", "name"), [("username", "KAFKA_SASL_USERNAME"), ("password", "KAFKA_SASL_PASSWORD")]
)
def test_a_user_without_password_or_a_password_without_user_is_told(protocol: str, missing: str, name: str) -> None:
    empty = {f"kafka_sasl_{missing}": "" if missing == "username" else SecretStr("")}
    for use in (client_properties, credentials):
        with pytest.raises(ConfigurationError, match=f"^{name} is not set, which {protocol} needs.$") as caught:
            use(settings_of(protocol, **user(**empty)))
        assert SECRET not in str(caught.value)


def test_a_file_that_is_missing_or_no_certificate_is_told_by_its_setting(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.certificate("api")
    (tmp_path / "text").write_text("no certificate")
    bad = {"kafka_ssl_ca_location": str(tmp_path / "none")}
    with pytest.raises(ConfigurationError, match=r"^KAFKA_SSL_CA_LOCATION: .*none cannot be read: No such file"):
        client_properties(settings_of("SSL", **bad))
    with pytest.raises(ConfigurationError, match=r"^KAFKA_SSL_CA_LOCATION: .*text holds no certificate"):
        client_properties(settings_of("SSL", kafka_ssl_ca_location=str(tmp_path / "text")))
    pairs = [
        (str(certificate), ""),
        ("", str(key)),
        (str(key), str(certificate)),
        (str(certificate), str(tmp_path / "x")),
    ]
    for one, other in pairs:
        given = {"kafka_ssl_certificate_location": one, "kafka_ssl_key_location": other}
        with pytest.raises(ConfigurationError, match=r"^KAFKA_SSL_CERTIFICATE_LOCATION "):
            client_properties(settings_of("SSL", **given))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessRefusedError),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, AccessRefusedError),
        (KafkaError._AUTHENTICATION, AccessRefusedError),
        (KafkaError._TRANSPORT, UnavailableError),
        (KafkaError._MSG_TIMED_OUT, UnavailableError),
    ],
)
def test_what_is_not_allowed_is_no_outage(code: int, kind: type[Exception]) -> None:
    assert type(failure(KafkaError(code), "do that")) is kind


def test_a_refusal_is_remembered_and_a_broker_that_goes_away_is_none() -> None:
    refusal = Refusal()
    refusal(KafkaError(KafkaError._SSL, "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker?"))
    refusal.check()
    assert "KAFKA_SECURITY_PROTOCOL" in str(refusal.unavailable())
    refusal.forget()
    assert str(refusal.unavailable()) == "Kafka at KAFKA_BOOTSTRAP_SERVERS does not answer."
    refusal(KafkaError(KafkaError._SSL, "SSL handshake failed: certificate verify failed"))
    with pytest.raises(AccessRefusedError, match="KAFKA_SSL_CA_LOCATION"):
        refusal.check()
    refusal(KafkaError(KafkaError._AUTHENTICATION, "Authentication failed"))
    with pytest.raises(AccessRefusedError, match="does not know this user or password"):
        refusal.check()
