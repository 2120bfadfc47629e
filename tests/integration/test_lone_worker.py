"""A worker that is the only one: waiting for its first model, changing to the next, stopping a bad intake."""

from __future__ import annotations

import pytest

from connectors.models import set_alias
from tests.integration.asking import INSTITUTION, ask, is_running, publish, scored_by, value_of
from tests.integration.command_line import run
from tests.integration.crashing import remove_dead_members
from tests.integration.running import Trained, new_workers, ready_worker, wait_until
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]


def test_a_worker_waits_alive_for_its_first_champion_and_swaps_to_the_next_without_a_restart(trained: Trained) -> None:
    settings = trained.settings.model_copy(update={"model_alias": "trial", "model_poll_s": 0.3})
    with new_workers(settings) as workers:
        wait_until("the worker is alive", lambda: ask(workers, "/healthz").code == 200)
        wait_until("it waits", lambda: ask(workers, "/readyz").document.get("reason") == "waiting for a champion model")
        assert (ask(workers, "/readyz").code, value_of(workers, "healthalliance_ready")) == (503, 0)
        result = run(settings, "train", "--seed", 2, "--json").document
        wait_until("it is ready", lambda: ask(workers, "/readyz").code == 200)
        assert scored_by(settings, "health-second-model") == result["version"] != trained.training.version
        set_alias(settings, trained.training.version)
        first = {"name": trained.training.model_name, "version": trained.training.version}
        wait_until("it swaps", lambda: value_of(workers, "healthalliance_model", **first) == 1)
        assert scored_by(settings, "health-first-model") == trained.training.version
        assert is_running(workers)


def test_too_many_rejections_stop_an_intake_until_it_is_resumed(trained: Trained) -> None:
    settings = trained.settings.model_copy(update={"rejected_share_limit": 0.2, "rejected_share_window": 10})
    with new_workers(settings) as workers:
        wait_until("the worker is ready", lambda: ask(workers, "/readyz").code == 200)
        publish(settings, *[to_bytes(encounter(f"health-{n}", patient="health")) for n in range(7)], *[b"no FHIR"] * 3)
        wait_until("the worker has ended", lambda: not is_running(workers))
    doctor = {one["what"]: one for one in run(settings, "doctor", "--json").document}
    assert (doctor["stream"]["ok"], INSTITUTION in doctor["stream"]["text"]) == (False, True)
    resumed = [run(settings, "intake", "resume", INSTITUTION, "--json").document["resumed"] for _ in range(2)]
    assert resumed == [True, False]
    remove_dead_members(settings)
    with ready_worker(settings):
        assert scored_by(settings, "health-resumed") == trained.training.version
