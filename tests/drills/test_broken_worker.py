"""A deliberately broken worker must be found out: the proof that the fault scenarios can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults.mutants import command
from tests.faults.short_form import Ground, ground, short
from tests.faults.trial import quiet_stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture
def own() -> Iterator[Ground]:
    yield from ground(quiet_stack)


def test_a_broken_worker_is_found_out(own: Ground) -> None:
    broken = replace(short("worker-kill"), command=command("naive"), kinds=6, settings={"batch_max_events": 20})
    # Six kills may all meet a worker with nothing on its way; eighteen do not.
    assert any("lost_events" in own.try_out(broken, 0.01)["violations"] for _ in range(3))
