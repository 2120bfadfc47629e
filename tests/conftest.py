"""How the tests are dealt out to processes that run side by side (`make test`)."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.integration.fixtures"]

# Integration tests and those of the page share a stack; faults are timed, and two stacks under faults at once would
# disturb each other.
_TOGETHER = {"tests/integration": "stack", "tests/browser": "stack", "tests/faults": "faults"}


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is half typed
    """Keep the tests of a file in one process, and those of some folders as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        group = next((group for folder, group in _TOGETHER.items() if nodeid.startswith(folder)), None)
        return group or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
