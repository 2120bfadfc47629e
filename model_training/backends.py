"""Where forests are fitted: threads of this process, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import StrEnum

import joblib

from schemas.errors import ConfigurationError, UnavailableError


class Backend(StrEnum):
    """What fits the trees."""

    THREADS = "threads"
    DASK = "dask"


@contextmanager
def fitting_on(backend: Backend, scheduler_address: str = "", connect_timeout_s: float = 10.0) -> Iterator[None]:
    """Fit forests within this context on a backend; the trees are the same on any.

    Dask: on the cluster at `scheduler_address`; where that is empty, on one of this machine's processors, on loopback
    and encrypted with a key of its own, that ends with the context. Raises UnavailableError where the scheduler does
    not answer, ConfigurationError where Dask is not installed.
    """
    if backend is Backend.THREADS:
        yield
        return
    try:
        import distributed
    except ImportError as error:
        raise ConfigurationError("Fitting on Dask needs the extra 'training': pip install .[training].") from error
    with ExitStack() as opened:
        cluster = scheduler_address or opened.enter_context(_local_cluster())
        try:
            client = distributed.Client(  # type: ignore[no-untyped-call]  # as it ships
                cluster, timeout=connect_timeout_s, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise UnavailableError("The Dask scheduler at DASK_SCHEDULER_ADDRESS does not answer.") from error
        opened.enter_context(client)
        opened.enter_context(joblib.parallel_config("dask", n_jobs=-1, client=client))
        yield


def _local_cluster() -> AbstractContextManager[object]:
    import distributed

    cluster: AbstractContextManager[object] = distributed.LocalCluster(  # type: ignore[no-untyped-call]  # as it ships
        n_workers=joblib.cpu_count(),
        threads_per_worker=1,
        host="127.0.0.1",
        security=True,  # who may connect may run code as this user
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # its health page only, on whatever port is free
    )
    return cluster
