"""Import MLflow without its chatter, and only where it is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connectors.settings import Settings
from schemas.errors import UnavailableError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# Read by MLflow when it is imported: no telemetry, progress bars, links or questions to git; give up early.
QUIET = {
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@contextmanager
def open_store(settings: Settings) -> Iterator[MlflowClient]:
    """Open the tracking and registry store; a new SQLite store gets its tables now.

    Whatever MLflow fails at meanwhile becomes an UnavailableError.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield MlflowClient(tracking_uri=settings.mlflow_tracking_uri, registry_uri=settings.mlflow_tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        # Its own words may hold the address and so a password.
        raise UnavailableError(
            f"The model registry at MLFLOW_TRACKING_URI does not do its work ({type(error).__name__})."
        ) from error
