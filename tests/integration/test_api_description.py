"""The OpenAPI document against the API that runs: whatever is made up from it gets an answer that it describes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.running_api import Api

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

_ENDLESS = "/api/v1/worklist/events"
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)


def test_every_operation_answers_as_it_is_described(api: Api) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()",
            "run", f"{api.url}/openapi.json", "-H", f"Authorization: Bearer {api.keys['dkfz']}",
            "--checks", ",".join(_CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "25",
            "--exclude-path", _ENDLESS, "--seed", "1", "--no-color", "--request-timeout", "20",
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:]
