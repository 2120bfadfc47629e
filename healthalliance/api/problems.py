"""Errors as `application/problem+json` (RFC 9457). None of them repeats what was sent: it may be about a patient."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from connectors.logs import without_values
from schemas.errors import HealthAllianceError, NoModelError, UnavailableError

log = logging.getLogger("healthalliance.api")

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = 5


class ProblemError(Exception):
    """A request that cannot be served: status, a word for programs, a sentence for people."""

    def __init__(self, status: int, type_: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.type, self.detail, self.headers = status, type_, detail, dict(headers or {})


class ProblemDocument(BaseModel):
    """How a problem is told (RFC 9457)."""

    type: str = Field(description="urn:healthalliance:problem:… or about:blank")
    title: str
    status: int
    detail: str = ""


def unavailable(what: str, retry_after_s: int = _RETRY_AFTER_S) -> ProblemError:
    """Say that something this depends on does not answer, and when to come again."""
    return ProblemError(503, "unavailable", what, {"Retry-After": str(retry_after_s)})


def problem_response(problem: ProblemError) -> Response:
    """Render a problem."""
    document = {
        "type": f"urn:healthalliance:problem:{problem.type}" if problem.type else "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    return Response(orjson.dumps(document), problem.status, problem.headers, MEDIA_TYPE)


def describes(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Say in the OpenAPI document which problems an operation answers with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {one: {"description": HTTPStatus(one).phrase, "content": content} for one in statuses}


def handle_problems(app: FastAPI) -> None:
    """Have every error leave the app as a problem."""

    @app.exception_handler(ProblemError)
    async def _problem(_: Request, error: ProblemError) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return problem_response(ProblemError(422, "invalid", _places(error)))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        return problem_response(ProblemError(error.status_code, "", "", error.headers))

    @app.exception_handler(HealthAllianceError)
    async def _ours(_: Request, error: HealthAllianceError) -> Response:
        if isinstance(error, UnavailableError | NoModelError):
            return problem_response(unavailable(str(error)))
        log.error("%s", error)
        return problem_response(ProblemError(500, "internal", "Something went wrong."))

    @app.exception_handler(Exception)
    async def _any(_: Request, error: Exception) -> Response:
        # Where it happened, never what it says: a message may quote a row or a request.
        log.error("Unforeseen %s.", type(error).__name__, exc_info=without_values(error))
        return problem_response(ProblemError(500, "internal", "Something went wrong."))


def _places(error: RequestValidationError) -> str:
    # Names in the body may be made up by the sender; only our own are repeated.
    kinds = {
        f"{'.'.join(str(part) for part in one['loc'] if one['type'] != 'extra_forbidden')}: {one['type']}"
        for one in error.errors()
    }
    return "Not as described in /docs: " + "; ".join(sorted(kinds)[:10]) + "."
