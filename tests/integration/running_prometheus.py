"""The real Prometheus with the project's configuration and rules, on a worker and an API process of the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from healthalliance.local_stack.ports import free_port
from tests.contract.source_code import ROOT
from tests.integration.running import wait_until

_FOLDER = ROOT / "monitoring" / "prometheus"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return an answer's data; fail where it is none."""
        answer = httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for what is now."""
        return list(self.get("query", query=expression)["result"])


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends; `targets`: job → host:port, in the place of the services' names."""
    config = yaml.safe_load((_FOLDER / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(_FOLDER / one) for one in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    file, address = folder / "prometheus.yml", f"127.0.0.1:{free_port(())}"
    file.write_text(yaml.safe_dump(config), "utf-8")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={address}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until("Prometheus is ready", lambda: _is_ready(address))
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(address: str) -> bool:
    try:
        return httpx2.get(f"http://{address}/-/ready", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False
