"""The ways that people are told: a webhook, Slack, e-mail, standard output."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import smtplib
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from enum import StrEnum
from typing import Any, Protocol

import httpx2

from connectors.settings import Settings
from healthalliance.alerting.receivers import NotAllowedError, Receivers
from schemas.alert import Alert, SinkKind, subject, text
from schemas.errors import ConfigurationError
from schemas.feature_words import Language

_AGAIN = frozenset({408, 429})
_LEAST_SECRET = 24
_ENCODED = "whsec_"  # what the standard's libraries call a secret in base64


class Outcome(StrEnum):
    """What a receiver made of an alert."""

    SENT = "sent"
    FAILED = "failed"  # it may succeed later
    REFUSED = "refused"  # it never will


@dataclass(frozen=True, slots=True)
class Answer:
    """A receiver's answer. reason: a few words without anything of the alert; after_s: not to be tried sooner."""

    outcome: Outcome
    reason: str = ""
    after_s: float = 0.0


class Sink(Protocol):
    """One way to tell people. It never raises for what a receiver does."""

    async def send(self, alert: Alert) -> Answer:
        """Send an alert, and say what became of it."""

    async def close(self) -> None:
        """Let go of connections."""


class _Posted:
    """Posts JSON; what is posted and with which headers is the subclass's."""

    def __init__(self, url: str, timeout_s: float, receivers: Receivers) -> None:
        self._url, self._timeout_s, self._receivers = httpx2.URL(url), timeout_s, receivers
        # A receiver that answers with another address is refused: it could lead anywhere.
        self._client = httpx2.AsyncClient(timeout=timeout_s, follow_redirects=False)

    def _content(self, alert: Alert) -> Mapping[str, Any]:
        raise NotImplementedError

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        raise NotImplementedError

    async def send(self, alert: Alert) -> Answer:
        """Post the alert; 2xx is taken, 408, 429, 5xx and no answer are tried again, all else is refused."""
        body = json.dumps(self._content(alert), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"} | self._headers(alert, body)
        try:
            async with asyncio.timeout(self._timeout_s):  # the client's own limits are for each step
                response = await self._post(body, headers)
        except NotAllowedError:
            return Answer(Outcome.FAILED, "internal address")
        except (httpx2.HTTPError, OSError) as error:  # a TimeoutError is one
            return Answer(Outcome.FAILED, type(error).__name__)
        return _judged(response)

    async def _post(self, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        # To the very address that was looked at: a name may lead elsewhere a moment later.
        at = self._url.copy_with(host=await self._receivers.address_of(self._url))
        return await self._client.post(
            at,
            content=body,
            headers={"Host": self._url.netloc.decode()} | headers,
            extensions={"sni_hostname": self._url.host},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _judged(response: httpx2.Response) -> Answer:
    status = response.status_code
    if response.is_success:
        return Answer(Outcome.SENT)
    if status in _AGAIN or status >= 500:
        asked = response.headers.get("Retry-After", "")
        return Answer(Outcome.FAILED, f"HTTP {status}", float(asked) if asked.isascii() and asked.isdigit() else 0.0)
    return Answer(Outcome.REFUSED, f"HTTP {status}")


class Webhook(_Posted):
    """Posts the alert as JSON, with its id as `Idempotency-Key`, signed as Standard Webhooks lay down.

    See https://www.standardwebhooks.com: the signature is of id, time and body.
    """

    def __init__(self, url: str, secret: str, timeout_s: float, receivers: Receivers) -> None:
        super().__init__(url, timeout_s, receivers)
        self._secret = base64.b64decode(secret[len(_ENCODED) :]) if secret.startswith(_ENCODED) else secret.encode()

    def _content(self, alert: Alert) -> Mapping[str, Any]:
        return alert.document()

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        sent_at = str(int(time.time()))
        headers = {"Idempotency-Key": alert.alert_id, "webhook-id": alert.alert_id, "webhook-timestamp": sent_at}
        if self._secret:
            headers["webhook-signature"] = signature(self._secret, alert.alert_id, sent_at, body)
        return headers


def signature(secret: bytes, alert_id: str, sent_at: str, body: bytes) -> str:
    """Sign a posted alert with HMAC-SHA-256.

    >>> signature(b"x" * 24, "a", "1700000000", b"{}")
    'v1,ziz1qnb4kBWHKiFIeoUFhOkOWCi8sv+x1xr6VW6x9q0='
    """
    digest = hmac.new(secret, f"{alert_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class Slack(_Posted):
    """Posts to one of Slack's incoming webhooks, which knows no ids: a repeat is seen twice."""

    def __init__(self, url: str, timeout_s: float, language: Language, receivers: Receivers) -> None:
        super().__init__(url, timeout_s, receivers)
        self._language: Language = language

    def _content(self, alert: Alert) -> Mapping[str, Any]:
        title = subject(alert, self._language)
        body = text(alert, self._language).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {
            "text": title,
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": title}},
                {"type": "section", "text": {"type": "mrkdwn", "text": body}},
            ],
        }

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        return {}


class Email:
    """Sends a mail whose Message-ID is the alert's id."""

    def __init__(self, settings: Settings, language: Language) -> None:
        self._settings, self._language = settings, language
        self._receivers = [one.strip() for one in settings.alert_email_to.split(",") if one.strip()]

    async def send(self, alert: Alert) -> Answer:
        """Send the mail; what a mail server refuses for good (5yz) is refused, all else tried again."""
        return await asyncio.to_thread(self._send, self.message(alert))

    async def close(self) -> None:
        """Nothing stays open."""

    def message(self, alert: Alert) -> EmailMessage:
        """Write the mail."""
        sender = self._settings.alert_email_from
        message = EmailMessage()
        message["From"], message["To"] = sender, ", ".join(self._receivers)
        message["Subject"] = subject(alert, self._language)
        message["Message-ID"] = f"<{alert.alert_id}@{parseaddr(sender)[1].rpartition('@')[2]}>"
        message["Date"] = formatdate()
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text(alert, self._language))
        return message

    def _send(self, message: EmailMessage) -> Answer:
        try:
            with self._connected() as server:
                if self._settings.alert_smtp_user:
                    server.login(self._settings.alert_smtp_user, self._settings.alert_smtp_password.get_secret_value())
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:  # all of them
            codes = [code for code, _ in error.recipients.values()]
            return _mail_answer(min(codes))
        except smtplib.SMTPResponseException as error:
            return _mail_answer(error.smtp_code)
        except (smtplib.SMTPException, OSError) as error:
            return Answer(Outcome.FAILED, type(error).__name__)
        return Answer(Outcome.SENT)

    def _connected(self) -> smtplib.SMTP:
        host, port, timeout = (self._settings.alert_smtp_host, self._settings.alert_smtp_port,
                               self._settings.alert_timeout_s)  # fmt: skip
        if self._settings.alert_smtp_security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=timeout, context=ssl.create_default_context())
        server = smtplib.SMTP(host, port, timeout=timeout)
        if self._settings.alert_smtp_security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server


def _mail_answer(code: int) -> Answer:
    return Answer(Outcome.REFUSED if code >= 500 else Outcome.FAILED, f"SMTP {code}")


class Printed:
    """Hands each alert to what prints it."""

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show

    async def send(self, alert: Alert) -> Answer:
        """Print the alert."""
        self._show(alert.document())
        return Answer(Outcome.SENT)

    async def close(self) -> None:
        """Nothing stays open."""


def open_sink(kind: SinkKind, settings: Settings, language: Language, show: Callable[[dict[str, Any]], None]) -> Sink:
    """Make the sink; raise ConfigurationError that names the setting it lacks."""
    receivers = Receivers.of(settings.alert_internal_receivers)
    if kind is SinkKind.WEBHOOK:
        secret = settings.alert_webhook_secret.get_secret_value()
        if secret and len(secret) < _LEAST_SECRET:
            raise ConfigurationError(f"ALERT_WEBHOOK_SECRET is shorter than {_LEAST_SECRET} characters.")
        url = _address("ALERT_WEBHOOK_URL", settings.alert_webhook_url.get_secret_value(), receivers)
        return Webhook(url, secret, settings.alert_timeout_s, receivers)
    if kind is SinkKind.SLACK:
        url = _address("ALERT_SLACK_URL", settings.alert_slack_url.get_secret_value(), receivers)
        return Slack(url, settings.alert_timeout_s, language, receivers)
    if kind is SinkKind.EMAIL:
        for name in ("alert_smtp_host", "alert_email_from", "alert_email_to"):
            if not getattr(settings, name):
                raise ConfigurationError(f"{name.upper()} is not set, which alerts by e-mail need.")
        return Email(settings, language)
    return Printed(show)


def _address(name: str, url: str, receivers: Receivers) -> str:
    """Return an address; the error does not quote it, since such addresses are secrets."""
    if not url:
        raise ConfigurationError(f"{name} is not set, which these alerts need.")
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"{name} is no address such as https://host/path.")
    receivers.require_allowed(name, parsed)
    return url
