"""Signed-in browsers: a cookie that says whose it is and until when, instead of a key that scripts could read."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from time import time

from fastapi import Request, Response

from healthalliance.api.keys import KeyRing, key_hash
from healthalliance.api.problems import ProblemError
from streams.decision import Sender

COOKIE = "healthalliance_session"
_LASTS_S = 12 * 3600  # a shift


@dataclass(frozen=True, slots=True)
class Sessions:
    """Makes and reads cookies. A session ends with the key it was opened by, and nothing of it is stored here."""

    keys: KeyRing
    senders: Mapping[str, Sender]

    def open(self, key: str, secure: bool, response: Response) -> str | None:
        """Set a cookie for the institution that a key opens, and return that; None, and no cookie, for other texts."""
        institution = self.keys.institution_of(key)
        if institution is not None:
            until = int(time()) + _LASTS_S
            value = f"{institution}.{until}.{self._signature(institution, until, key_hash(key))}"
            response.set_cookie(COOKIE, value, _LASTS_S, httponly=True, samesite="strict", secure=secure)
        return institution

    def opened_by(self, cookie: str) -> tuple[str, str] | None:
        """Return whose a cookie is, and its key's hash; None once it is over, its key is gone, or if made elsewhere."""
        institution, _, rest = cookie.partition(".")
        until, _, signature = rest.partition(".")
        if institution not in self.senders or not until.isdecimal() or len(until) > 12 or int(until) < time():
            return None
        opened = None
        for stored, id_ in self.keys.hashes:
            if id_ == institution:
                expected = self._signature(institution, int(until), stored)
                if hmac.compare_digest(expected.encode(), signature.encode()):
                    opened = institution, stored
        return opened

    def _signature(self, institution: str, until: int, stored: str) -> str:
        # The hash alone would not do: it is a setting, and whoever reads it must not be able to sign in.
        secret = self.senders[institution].keys.session
        return hmac.digest(secret, f"{institution}.{until}.{stored}".encode(), "sha256").hex()


def require_same_site(request: Request) -> None:
    """Raise ProblemError 403 for a request that changes something and may come from another site's page."""
    if request.method in ("GET", "HEAD"):
        return
    origin = request.headers.get("origin", "").partition("://")[2]
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or origin != request.headers.get("host"):
        raise ProblemError(403, "cross-site", "A signed-in browser may change something from this site's pages only.")
