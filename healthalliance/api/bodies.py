"""Request bodies: bounded in size and in time."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from healthalliance.api.problems import ProblemError

_DRAINED = 4  # times the limit that is read and dropped, so that a client that sends first sees the answer


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Read a body; raise ProblemError 413 for a larger one, 408 for one that is slower, 400 for one that breaks off."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                elif size > _DRAINED * max_bytes:
                    break
    except TimeoutError:
        raise ProblemError(408, "too-slow", f"The body did not arrive within {timeout_s:g} s.") from None
    except ClientDisconnect:
        raise ProblemError(400, "broken-off", "The body broke off.") from None
    if size > max_bytes:
        raise ProblemError(413, "too-large", f"At most {max_bytes} bytes are accepted.")
    return b"".join(parts)


def media_type(request: Request) -> str:
    """Return the body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wants_fhir(request: Request) -> bool:
    """Tell whether the caller asks for FHIR rather than plain JSON."""
    return "application/fhir+json" in request.headers.get("accept", "").lower()
