"""Faults of Kafka: of three brokers the leaders are killed, and once all are away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.kafka import encounter_topics
from connectors.settings import Settings
from tests.faults.kafka_nodes import Cluster, folder_beside
from tests.faults.trial import Trial, quiet_stack

_DOWN_S = (1.0, 5.0)
_OUTAGE_S = 10.0
_CLUSTERS: dict[Path, Cluster] = {}  # by data folder


@contextmanager
def stack_with_three_brokers(settings: Settings) -> Iterator[Settings]:
    """Run a local stack on a cluster of three brokers, each partition on all of them."""
    cluster = Cluster(folder_beside(settings), size=3)
    try:
        cluster.start()
        given = {"kafka_bootstrap_servers": cluster.addresses, "kafka_replication_factor": 3}
        with quiet_stack(settings.model_copy(update=given)) as running:
            _CLUSTERS[running.data_dir] = cluster
            yield running
    finally:
        cluster.stop()


def kill_leaders(trial: Trial) -> None:
    """Kill the leader of one partition after the other, each back in sync before the next; at last kill all."""
    cluster = _CLUSTERS[trial.settings.data_dir]
    for number in trial.moments():
        if number + 1 == trial.strikes:
            for node in cluster.nodes:
                cluster.kill(node.number)
            time.sleep(_OUTAGE_S)
            cluster.start()
            trial.measure("recovery_after_outage_s", trial.recovery_s())
        else:
            topic = trial.rng.choice(encounter_topics())
            leader = cluster.leader(topic, trial.rng.randrange(trial.settings.topic_partitions))
            cluster.kill(leader)
            trial.measure("recovery_s", trial.recovery_s())
            time.sleep(trial.rng.uniform(*_DOWN_S))
            cluster.start([leader])
        cluster.wait_until_in_sync()
