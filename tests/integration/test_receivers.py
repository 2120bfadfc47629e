"""Alerts go to where they are meant to go: no internal address that nobody named, no second address on an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address

import httpx2
import pytest
from pydantic import SecretStr

from connectors.settings import Settings
from healthalliance.alerting.receivers import Receivers
from healthalliance.alerting.sinks import Answer, Outcome, open_sink
from schemas.alert import SinkKind, Told, in_words
from schemas.errors import ConfigurationError
from schemas.messages import Band
from tests.integration.alerting import Receiver

_NOW = datetime(2025, 3, 3, 8, tzinfo=UTC)
_ALERT = in_words(
    Told(
        alert_id="a", institution="ukhd", patient_pseudonym="p", encounter_pseudonym="e", record_id="r",
        band=Band.HIGH, probability=0.41, features={}, contributions={}, scored_at=_NOW, decided_at=_NOW, attempts=1,
    ),
    "en",
)  # fmt: skip
_KINDS = [SinkKind.WEBHOOK, SinkKind.SLACK]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def sent(kind: SinkKind, url: str, internal: str = "") -> Answer:
    settings = Settings.model_construct(
        alert_webhook_url=SecretStr(url), alert_slack_url=SecretStr(url), alert_internal_receivers=internal
    )

    async def send() -> Answer:
        sink = open_sink(kind, settings, "en", lambda _: None)
        try:
            return await sink.send(_ALERT)
        finally:
            await sink.close()

    return asyncio.run(send())


@pytest.mark.parametrize("kind", _KINDS)
def test_a_name_that_leads_to_this_machine_is_not_posted_to_unless_it_is_meant(
    kind: SinkKind, receiver: Receiver
) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    assert sent(kind, url) == Answer(Outcome.FAILED, "internal address")
    assert sent(kind, url, "receiver.example") == Answer(Outcome.FAILED, "internal address")
    assert receiver.posted == []
    for internal in ("localhost", "127.0.0.1, ::1", "127.0.0.0/8,::1/128"):
        assert sent(kind, url, internal).outcome is Outcome.SENT
    assert len(receiver.posted) == 3
    assert {one.headers["Host"] for one in receiver.posted} == {httpx2.URL(url).netloc.decode()}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(kind: SinkKind, status: int, receiver: Receiver) -> None:
    with Receiver(lambda _: status, {"Location": receiver.url}) as first:
        assert sent(kind, first.url, "127.0.0.1") == Answer(Outcome.REFUSED, f"HTTP {status}")
        assert len(first.posted) == 1
    assert receiver.posted == []


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "[::1]",
     "[::]", "[fe80::1]", "[fd00:ec2::254]", "[fd12::1]", "[::ffff:169.254.169.254]", "[::ffff:10.0.0.1]",
     "[64:ff9b::a9fe:a9fe]", "[64:ff9b::a00:1]", "[2002:a00:1::]"],
)  # fmt: skip
def test_an_internal_address_is_named_at_the_start_by_its_setting_alone(kind: SinkKind, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^ALERT_\w+_URL is an internal address") as refused:
        sent(kind, f"http://{host}/hook")
    assert host not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/x", "gopher://127.0.0.1:70/", "//example.org", ""]
)
def test_other_schemes_are_no_addresses(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ALERT_WEBHOOK_URL"):
        sent(SinkKind.WEBHOOK, url)


@pytest.mark.parametrize(
    ("setting", "host", "address", "allowed"),
    [
        ("", "example.org", "93.184.215.14", True),
        ("", "example.org", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("", "inside.example", "10.1.2.3", False),
        ("10.1.0.0/16", "inside.example", "10.1.2.3", True),
        ("10.1.0.0/16", "inside.example", "10.2.2.3", False),
        ("Inside.example", "inside.EXAMPLE", "10.2.2.3", True),
        ("inside.example", "not-inside.example", "10.2.2.3", False),
        ("10.1.0.0/16", "inside.example", "::ffff:10.1.2.3", True),
        ("0.0.0.0/0,::/0,inside.example", "inside.example", "169.254.169.254", False),
        ("0.0.0.0/0,::/0,inside.example", "inside.example", "::ffff:169.254.169.254", False),
        ("0.0.0.0/0,::/0,inside.example", "inside.example", "fd00:ec2::254", False),
        ("0.0.0.0/0,::/0,inside.example", "inside.example", "fe80::1", False),
    ],
)
def test_internal_receivers_are_those_that_are_named_and_never_a_clouds_own(
    setting: str, host: str, address: str, allowed: bool
) -> None:
    assert Receivers.of(setting).allows(host, ip_address(address)) is allowed


@pytest.mark.parametrize("setting", ["10.1.0.0/33", "10.1.2.3/16", "http://receiver", "a/b"])
def test_what_is_neither_host_nor_network_is_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="ALERT_INTERNAL_RECEIVERS"):
        Receivers.of(setting)
