"""The scenarios at their full sizes."""

from __future__ import annotations

from tests.faults import disorder, dying, on_database, on_registries, on_workers, poison, soak
from tests.faults.trial import Scenario, load_alone

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
        Scenario(
            "postgres",
            "PostgreSQL restarted, killed, away, full, deadlocked: nothing acknowledged that was not committed",
            events=60_000,
            strikes=10,
            attack=on_database.strike_database,
            kinds=5,
            events_per_s=100.0,
            most={"recovery_s": 30.0},
            check=on_database.nothing_acked_early,
        ),
        Scenario(
            "poison",
            "1 % poison of every kind: each rejected once with its code, p99 of good events at most 1.5 times as long",
            events=100_000,
            strikes=1,
            attack=load_alone,
            workers=1,
            events_per_s=300.0,
            most={"p99_ratio": 1.5, "repeat_share": 0.0},
            load=poison.poisoned,
            check=poison.right_codes_and_no_delay,
        ),
        Scenario(
            "disorder",
            "a tenth twice, a tenth late, a tenth by wrong clocks: the same scores as in order",
            events=60_000,
            strikes=1,
            attack=load_alone,
            load=disorder.disordered,
            check=disorder.as_in_order,
        ),
        Scenario(
            "registry",
            "schema registry and MLflow away, ten champions under load: every score names the model that made it",
            events=90_000,
            strikes=10,
            kinds=2,
            attack=on_registries.swap_champions,
            events_per_s=100.0,
            settings={"model_poll_s": 2.0},
            check=on_registries.every_champion_scored,
            stack=on_registries.stack_with_model_server,
        ),
        Scenario(
            "soak",
            "faults of all kinds every 30 s for half an hour: no violation, memory growth below 5 %",
            events=180_000,
            strikes=60,
            kinds=3,
            attack=soak.strike_everything,
            events_per_s=100.0,
            most={"memory_growth": 0.05},
        ),
    )
}
