"""Who calls: an institution, by its key, or a browser that signed in with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from healthalliance.api.keys import key_hash
from healthalliance.api.problems import ProblemError
from healthalliance.api.service import Service, Shared
from healthalliance.api.sessions import COOKIE, require_same_site
from streams.decision import Sender

_bearer = HTTPBearer(auto_error=False, description="The institution's key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The institution's key.")

_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="A browser that signed in on the page.")


async def caller(
    request: Request,
    service: Shared,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
    cookie: Annotated[str | None, Security(_cookie)],
) -> Sender:
    """Return the institution that the request's key or session opens, with its pseudonym keys.

    The request's state says as `agent` which key or session it was, for the audit log.

    Raises ProblemError 401 without a good key, 403 for a change that another site's page may have asked a signed-in
    browser for, 429 where an institution, or an address with bad keys, asks too often.
    """
    key = bearer.credentials if bearer else header
    institution = service.keys.institution_of(key) if key else None
    agent = f"key:{_short(key_hash(key))}" if key else ""
    if not key and cookie and (opened := service.sessions.opened_by(cookie)):
        institution, agent = opened[0], f"session:{_short(opened[1])}"
        require_same_site(request)
    if institution is None:
        raise refused_key(service, request)
    if (wait := service.requests.retry_after_s(institution)) is not None:
        raise _too_many(wait)
    request.state.agent = agent
    return service.senders[institution]


Caller = Annotated[Sender, Depends(caller)]


def require_own(institution_id: str, sender: Sender) -> None:
    """Raise ProblemError 403 for an institution that is not the caller's, whether it exists or not."""
    if institution_id != sender.institution.id:
        raise ProblemError(403, "not-yours", "This key opens another institution.")


def refused_key(service: Service, request: Request) -> ProblemError:
    """Say that a key opens nothing, or that its sender's address has tried too often."""
    address = request.client.host if request.client else ""
    if (wait := service.refused_keys.retry_after_s(address)) is not None:
        return _too_many(wait)
    headers = {"WWW-Authenticate": 'Bearer realm="healthalliance"'}
    return ProblemError(401, "no-key", "Send the institution's key as `Authorization: Bearer …`.", headers)


def _short(hash_: str) -> str:
    """Cut a key's hash to what tells keys apart."""
    return hash_.partition(":")[2][:16]


def _too_many(retry_after_s: int) -> ProblemError:
    return ProblemError(429, "too-many", "Too many requests.", {"Retry-After": str(retry_after_s)})
