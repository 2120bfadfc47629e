"""How the tests are dealt out to processes that run side by side (`make test`)."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_SHARE_A_STACK = "tests/integration"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is half typed
    """Keep the tests of a file in one process, and those of a folder whose tests share a stack."""

    def _split_scope(self, nodeid: str) -> str:
        return _SHARE_A_STACK if nodeid.startswith(_SHARE_A_STACK) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
