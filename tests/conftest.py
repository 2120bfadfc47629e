"""How the tests are dealt out to processes that run side by side (`make test`), and what is told of a failure."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from connectors.settings import Settings

pytest_plugins = ["tests.integration.fixtures"]

# The tests of a group share a stack, or are timed and would disturb each other. A test belongs to the first group that
# its name begins with; others are dealt out by file.
_GROUPS = {
    "tests/integration/test_alerts": "own stacks",
    "tests/integration/test_kafka_access": "further stacks",
    "tests/integration/test_rotation": "further stacks",
    "tests/faults": "faults",
    # Two stacks of the same kind, so that half the tests do not wait for the other half.
    "tests/browser": "another stack",
    "tests/integration/test_alerted_events": "another stack",
    "tests/integration/test_analysts": "another stack",
    "tests/integration/test_api": "another stack",
    "tests/integration/test_audit": "another stack",
    "tests/integration/test_canary": "another stack",
    "tests/integration": "one stack",
}
_LONGEST_FIRST = ("one stack", "another stack", "faults", "own stacks", "further stacks")


def group_of(nodeid: str) -> str | None:
    """Return the group of a test, None where its file stands alone."""
    return next((group for begin, group in _GROUPS.items() if nodeid.startswith(begin)), None)


# It leaves thousands of patients that no hospital has, of which other tests would train models.
_LAST = "tests/integration/test_canary"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups, which take minutes, before the files, which fill what is left at the end."""
    places = {group: place for place, group in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda one: (places.get(group_of(one.nodeid) or "", len(places)), one.nodeid.startswith(_LAST)))


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is half typed
    """Keep the tests of a group in one process, and of other files those of a file."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


# --- what a failure leaves behind


_LOGS = "what the workers said last"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what the stack's workers warned of before a test failed: its data folder is gone afterwards."""
    report = yield
    if report.failed:
        for one in dict.fromkeys(_data_folders(getattr(item, "funcargs", {}))):
            for log in sorted(one.glob("logs/worker*.log")):
                if said := _LAST_WORDS.findall(log.read_text("utf-8", "replace")):
                    report.sections.append((_LOGS, "\n".join(said[-15:])))
    return report


def _data_folders(arguments: Mapping[str, object]) -> Iterator[Path]:
    for one in arguments.values():
        settings = getattr(one, "settings", one)
        if isinstance(settings, Settings):
            yield settings.data_dir


_LAST_WORDS = re.compile(r"^\S+ \S+ (?:WARNING|ERROR|CRITICAL) .*$", re.MULTILINE)
_said: dict[str, None] = {}  # in the process that gathers the reports


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _said.update({text: None for name, text in report.sections if name == _LOGS})


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Say it once more at the very end, where a long output is looked at first."""
    result = yield
    if _said and not hasattr(session.config, "workerinput"):
        print(f"\n--- {_LOGS}", *list(_said)[-3:], sep="\n")
    return result
