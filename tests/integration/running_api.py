"""The HTTP API as its callers meet it: a process, its address, a key for each institution."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from connectors.settings import Settings, settings_environment
from healthalliance.api.keys import key_hash, new_key
from healthalliance.local_stack.ports import free_port
from schemas.institutions import institutions
from tests.integration.running import wait_until


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
    log = own.data_dir / "logs" / "api.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "healthalliance", "api"],
            env={**os.environ, **settings_environment(own)}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    api = Api(f"http://127.0.0.1:{own.api_port}", f"http://127.0.0.1:{own.api_metrics_port}/metrics", process.pid, keys)
    try:
        wait_until("the API is healthy", lambda: _is_healthy(api))
        yield api
    finally:
        process.terminate()
        assert process.wait(15) == 0, log.read_text()[-2000:]


def _is_healthy(api: Api) -> bool:
    try:
        return httpx2.get(f"{api.url}/health", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False
