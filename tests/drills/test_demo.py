"""The quick start: `make demo` ends well, with fewer patients than it has for people."""

from __future__ import annotations

import io
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from connectors.settings import Settings
from healthalliance import demo
from healthalliance.local_stack import stack
from healthalliance.local_stack.ports import free_port
from schemas.institutions import institutions
from tests.documents import ROOT
from tests.integration.running import known_pseudonym_key

pytestmark = pytest.mark.stack


def test_make_demo_starts_the_demo() -> None:
    shown = [
        subprocess.run(
            ["make", "--no-print-directory", "--dry-run", "demo", *more],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ((), ("ONCE=1",))
    ]
    assert [one.splitlines()[-1].strip() for one in shown] == [
        ".venv/bin/healthalliance demo", ".venv/bin/healthalliance demo --once",
    ]  # fmt: skip


def test_the_demo_shows_how_events_ended_the_highest_risks_and_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "ensure_pseudonym_key", known_pseudonym_key)
    monkeypatch.setattr(demo, "_PATIENTS", 300)
    monkeypatch.setattr(demo, "_LIVE_UNTIL", demo._HISTORY_UNTIL + timedelta(days=10))
    settings = Settings.model_construct(data_dir=tmp_path, train_search_budget_s=0.0, metrics_port=free_port(()))
    said = io.StringIO()
    found = demo.run_demo(settings, once=True, seed=1, out=Console(file=said, width=200))
    assert found["institutions"].keys() == institutions().keys()
    for one in found["institutions"].values():
        published = one.pop("published")
        assert published == sum(one.values()) > 0
    assert len(found["highest_risks"]) == 8
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["model"]["auroc"] > 0.5
    assert "From publishing to the committed row: p50" in said.getvalue()
