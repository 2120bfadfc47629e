"""The HTTP API as its callers meet it: a process, its address, a key for each institution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from connectors.settings import Settings
from healthalliance.api.keys import key_hash, new_key
from healthalliance.api_process import ApiProcess
from healthalliance.local_stack.ports import free_port
from schemas.institutions import institutions


@dataclass(frozen=True, slots=True)
class Api:
    """A running API."""

    url: str
    metrics_url: str
    pid: int
    keys: dict[str, str] = field(repr=False)

    def client(self, institution: str | None) -> httpx2.Client:
        """Make a client with an institution's key, or without any."""
        headers = {"Authorization": f"Bearer {self.keys[institution]}"} if institution else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running_api(settings: Settings, keys: dict[str, str] | None = None) -> Iterator[Api]:
    """Run the API, ready, until the block ends."""
    keys = keys or {id_: new_key(id_) for id_ in institutions()}
    own = settings.model_copy(
        update={
            "api_port": free_port(()),
            "api_metrics_port": free_port(()),
            "institution_api_key": {id_: key_hash(key) for id_, key in keys.items()},
        }
    )
    with ApiProcess(own) as process:
        yield Api(process.url, process.metrics_url, process.pid, keys)
    assert process.exit_code == 0, (own.data_dir / "logs" / "api.log").read_text()[-2000:]
