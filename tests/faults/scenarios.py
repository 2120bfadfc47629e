"""The scenarios at their full sizes."""

from __future__ import annotations

from tests.faults import dying, on_workers
from tests.faults.trial import Scenario

SCENARIOS = {
    one.name: one
    for one in (
        Scenario(
            "worker-kill",
            "SIGKILL: nothing lost, doubled or stale; at most 5 % of the messages repeated",
            events=200_000,
            strikes=50,
            attack=on_workers.kill,
            most={"repeat_share": 0.05},
        ),
        Scenario(
            "every-step",
            "death before and after each step of a batch: all exact",
            events=60_000,
            strikes=20 * len(dying.MOMENTS),
            attack=dying.at_every_step,
            workers=1,
            attacks_first=True,
            settings={"batch_max_events": 40},
        ),
        Scenario(
            "rolling",
            "SIGTERM: nothing lost, nothing repeated, each worker ends within 20 s",
            events=100_000,
            strikes=20,
            attack=on_workers.stop_in_order,
            most={"repeat_share": 0.0, "exit_s": 20.0},
        ),
        Scenario(
            "zombie",
            "SIGSTOP past the session's end, then SIGCONT: nothing stale",
            events=100_000,
            strikes=20,
            attack=on_workers.freeze,
            events_per_s=250.0,
        ),
        Scenario(
            "rebalance-storm",
            "workers come and go every 10 s: nothing lost, progress at least every 30 s",
            events=120_000,
            strikes=30,
            attack=on_workers.come_and_go,
            workers=2,
            events_per_s=200.0,
            most={"standstill_s": 30.0},
        ),
    )
}
