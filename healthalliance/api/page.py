"""The worklist as a page at `/`, and signing in on it."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from healthalliance.api.callers import refused_key
from healthalliance.api.service import Shared
from healthalliance.api.sessions import COOKIE, require_same_site

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("page_files")
# Nothing but our own files, nothing inline, in nobody's frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class KeyIn(BaseModel, extra="forbid"):
    """An institution's key."""

    key: str = Field(max_length=200)


def serve_files(app: FastAPI) -> None:
    """Serve the page's script, words and style."""
    app.mount("/page", StaticFiles(directory=_FOLDER), name="page")


@router.get("/")
async def get_page() -> FileResponse:
    """Return the page; it holds nothing of anybody."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.post("/session", status_code=204, dependencies=[Depends(require_same_site)])
async def sign_in(given: KeyIn, request: Request, service: Shared) -> Response:
    """Open a session of the institution that a key opens; raise ProblemError 401 or 429 for other texts."""
    response = Response(status_code=204)
    if service.sessions.open(given.key, request.url.scheme == "https", response) is None:
        raise refused_key(service, request)
    return response


@router.delete("/session", status_code=204, dependencies=[Depends(require_same_site)])
async def sign_out() -> Response:
    """Close the session."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
