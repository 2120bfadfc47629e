"""The HTTP API as an ASGI application."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from connectors.settings import Settings
from healthalliance.api import cds_hooks, encounters, health, institutions, page, predictions, scores, worklist
from healthalliance.api.measuring import Measured
from healthalliance.api.problems import ProblemDocument, handle_problems
from healthalliance.api.protecting import Protected
from healthalliance.api.service import open_service

_ROUTERS = (
    health.router,
    institutions.router,
    predictions.router,
    encounters.router,
    scores.router,
    worklist.router,
    cds_hooks.router,
    page.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Make the app; it connects when it starts, and raises then as `open_service` does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings) as service:
            app.state.service = service
            gc.collect()
            gc.freeze()  # what is there now stays: to look through it again and again costs tens of milliseconds
            yield

    app = FastAPI(
        title="HealthAlliance",
        version=version("healthalliance"),
        summary="30-day readmission risk, from FHIR R4 encounter events",
        description="Not a medical device. Each key opens its own institution.",
        lifespan=lifespan,
        # Its own spans hold paths and queries, which name patients.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    for router in _ROUTERS:
        app.include_router(router)
    page.serve_files(app)
    handle_problems(app)
    app.add_middleware(Protected)
    app.add_middleware(Measured)
    _describe_problems(app)
    return app


def _describe_problems(app: FastAPI) -> None:
    """Put the problem document, which no operation returns by itself, into the OpenAPI document."""
    describe = app.openapi

    def described() -> dict[str, object]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("ProblemDocument", ProblemDocument.model_json_schema())
        return document

    app.openapi = described  # type: ignore[method-assign]
