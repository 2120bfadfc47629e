"""The short forms of scenarios that need a stack of their own: several brokers, network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.faults.short_form import Ground, ground, short

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Ground]:
    scenario = SCENARIOS[request.param]
    if (reason := scenario.why_not()) is not None:
        pytest.skip(reason)
    yield from ground(scenario.stack)


@pytest.mark.parametrize(("own", "kinds"), [("broker", 2), ("network", 2)], indirect=["own"])
def test_nothing_is_violated_on_a_stack_of_its_own(own: Ground, request: pytest.FixtureRequest, kinds: int) -> None:
    name = request.node.callspec.params["own"]
    assert own.try_out(replace(short(name), kinds=kinds), 0.02)["violations"] == {}
