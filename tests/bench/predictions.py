"""Measure predictions a second of one API process against a bare FastAPI endpoint, by wrk, turn by turn."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx2
from rich.table import Table

from connectors.settings import Settings
from healthalliance.local_stack.ports import free_port
from tests.integration.running_api import running_api

_SECONDS = 8
_TURNS = 3
_CONNECTIONS = 8
_INSTITUTION = "dkfz"
_FEATURES = {
    "age_years": 74, "gender_encoded": 1, "num_conditions": 7, "num_medications": 11, "recent_encounters": 5,
    "prior_inpatient_stays_365d": 2, "prior_emergency_visits_180d": 1, "length_of_stay_days": 6.5,
    "emergency_admission": 1,
}  # fmt: skip

_BARE = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.post("/")
async def answer(features: dict[str, float]) -> dict[str, float]:
    return {"probability": 0.5}
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error")
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: answers a second, their 99th percentile in ms, answers other than 200."""

    per_s: float
    p99_ms: float
    refused: int


def why_not() -> str | None:
    """Say what keeps it from being measured."""
    return None if shutil.which("wrk") and shutil.which("taskset") else "needs wrk and taskset"


def measure(settings: Settings) -> dict[str, float]:
    """Take turns between both, each process on one core and wrk on the other; return the medians."""
    found: dict[str, list[Load]] = {"api": [], "bare": []}
    settings = settings.model_copy(update={"api_requests_per_s": 1e6})
    with running_api(settings) as api, _bare() as bare_url:
        _pin(api.pid)
        for _ in range(_TURNS):
            found["bare"].append(_wrk(f"{bare_url}/", ""))
            found["api"].append(_wrk(f"{api.url}/api/v1/predict", api.keys[_INSTITUTION]))
    api_, bare = (Load(*(median(column) for column in zip(*map(_values, found[name]), strict=True))) for name in found)
    return {
        "predictions_per_s": api_.per_s,
        "predictions_p99_ms": api_.p99_ms,
        "predictions_refused": api_.refused,
        "bare_fastapi_per_s": bare.per_s,
        "bare_fastapi_p99_ms": bare.p99_ms,
        "predictions_to_bare": api_.per_s / bare.per_s,
    }


def add_rows(table: Table, found: dict[str, float] | None) -> None:
    """Show the figures beside their targets, or why there are none."""
    if found is None:
        table.add_row("predictions over HTTP", why_not() or "", "")
        return
    table.add_row("predictions/s over HTTP, one core", f"{found['predictions_per_s']:.0f}", "≥ 500")
    table.add_row("their p99, ms", f"{found['predictions_p99_ms']:.1f}", "≤ 30")
    table.add_row("of a bare FastAPI endpoint's rate", f"{found['predictions_to_bare']:.2f}", "")


def _values(load: Load) -> tuple[float, ...]:
    return tuple(asdict(load).values())


@contextmanager
def _bare() -> Iterator[str]:
    port = free_port(())
    process = subprocess.Popen([sys.executable, "-c", _BARE, str(port)])
    try:
        _pin(process.pid)
        _wait_for(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            httpx2.post(url, json={})
        except httpx2.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def _pin(pid: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {0})


def _wrk(url: str, key: str) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "predict.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{json.dumps(_FEATURES)}'\n"
            f"wrk.headers['Content-Type'] = 'application/json'\nwrk.headers['Authorization'] = 'Bearer {key}'\n"
        )
        done = subprocess.run(
            ["taskset", "-c", "1", "wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", "--latency", "-s", str(script),
             url], capture_output=True, text=True, check=True, timeout=_SECONDS + 30,
        )  # fmt: skip
    return _read(done.stdout)


def _read(text: str) -> Load:
    per_s = re.search(r"Requests/sec:\s+([\d.]+)", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if per_s is None or p99 is None:
        raise ValueError(f"wrk says something else: {text}")
    return Load(
        float(per_s[1]), float(p99[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[p99[2]], int(refused[1]) if refused else 0
    )
