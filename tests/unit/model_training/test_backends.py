from __future__ import annotations

import numpy as np
import pytest
from joblib.parallel import get_active_backend

from model_training.backends import Backend, fitting_on
from model_training.search import SHAPES, fit_forest, raw_probability
from schemas.errors import UnavailableError
from tests.unit.model_training.datasets import dataset

WHOLE = dataset(1, 2000)


def test_processes_of_this_machine_fit_the_trees_that_threads_do() -> None:
    with fitting_on(Backend.THREADS):
        by_threads = fit_forest(WHOLE, SHAPES[0], 1)
    with fitting_on(Backend.DASK):
        client = get_active_backend()[0].client
        by_dask = fit_forest(WHOLE, SHAPES[0], 1)
        done = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
        address = client.scheduler.address
    assert any("build_trees" in name for name in done)
    assert address.startswith("tls://127.0.0.1:")
    assert np.array_equal(raw_probability(by_threads, WHOLE.rows), raw_probability(by_dask, WHOLE.rows))


def test_a_cluster_is_found_by_its_address() -> None:
    import distributed

    with distributed.LocalCluster(  # type: ignore[no-untyped-call]  # as it ships
        n_workers=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        with fitting_on(Backend.DASK, cluster.scheduler_address):
            fit_forest(WHOLE, SHAPES[0], 1)
        assert any("build_trees" in name for name in cluster.scheduler.task_prefixes)


def test_a_scheduler_that_is_not_there_is_told_in_a_sentence() -> None:
    nobody = fitting_on(Backend.DASK, "tcp://127.0.0.1:9", connect_timeout_s=0.2)
    with pytest.raises(UnavailableError, match="DASK_SCHEDULER_ADDRESS"), nobody:
        pytest.fail("never entered")
