"""How the tests are dealt out to processes that run side by side (`make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_SHARE_A_STACK = ("integration",)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and those of a folder whose tests share a stack."""
    for item in items:
        folder, *_ = item.path.relative_to(_TESTS).parts
        item.add_marker(pytest.mark.xdist_group(folder if folder in _SHARE_A_STACK else str(item.path)))
