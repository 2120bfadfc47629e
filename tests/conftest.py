"""How the tests are dealt out to processes that run side by side (`make test`)."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.integration.fixtures"]

# The tests of a group share a stack, or are timed and would disturb each other; the groups take about as long. A test
# belongs to the first group that its name begins with; others are dealt out by file.
_GROUPS = {
    "tests/faults/test_own_stacks": "own stacks",
    "tests/integration/test_alerts": "own stacks",
    "tests/integration/test_consumers": "own stacks",
    "tests/integration/test_demo": "own stacks",
    "tests/integration/test_local_stack": "own stacks",
    "tests/integration/test_rebuild": "own stacks",
    "tests/faults": "faults",
    "tests/integration": "one stack",
    "tests/browser": "one stack",
}


def group_of(nodeid: str) -> str | None:
    """Return the group of a test, None where its file stands alone."""
    return next((group for begin, group in _GROUPS.items() if nodeid.startswith(begin)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups, which take minutes, before the files, which fill what is left at the end."""
    places = {group: place for place, group in enumerate(dict.fromkeys(_GROUPS.values()))}
    items.sort(key=lambda one: places.get(group_of(one.nodeid) or "", len(places)))


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is half typed
    """Keep the tests of a group in one process, and of other files those of a file."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
