"""Old and new workers side by side, there and back again, while events flow: nothing lost, doubled or stale."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import ensure_topics
from connectors.migrate import is_migrated, migrate
from connectors.models import set_alias
from connectors.models.versions import sign_version
from connectors.registry import Registry
from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.demo import wait_until_ready
from healthalliance.local_stack import Ports
from healthalliance.local_stack.ports import free_port
from healthalliance.progress import fetch
from healthalliance.workers import WorkerOptions, WorkerProcesses
from schemas.topics import TopicFamily, topic_names
from tests.drills.releases import Release, previous_release
from tests.faults.lasting_ports import lasting_ports
from tests.faults.load import Feed, Ledger, Patients, train_champion
from tests.faults.oracle import Verdict, judge
from tests.faults.trial import has_ended
from tests.faults.watch import Watch, is_acknowledged
from tests.integration.reading import ends_of, read_since
from tests.integration.running import data_folder, database, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

_EVENTS_PER_S = 60.0
_EXIT_S = 60.0  # promised: 20 s, on a machine that does nothing else, as the next
_STANDSTILL_S = 90.0  # promised: 30 s


class Workers:
    """Workers of both releases in one group, each started and stopped by itself; none is started again."""

    def __init__(self, settings: Settings, previous: Release) -> None:
        self._settings, self._open = settings, ExitStack()
        self._commands = {"old": previous.command("-m", "healthalliance"), "new": WorkerOptions().command}
        self.running: dict[str, WorkerProcesses] = {}
        self.exit_s: dict[str, float] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def start(self, release: str, *names: str) -> None:
        """Start workers of a release, and wait until they consume."""
        for name in names:
            settings = self._settings.model_copy(update={"metrics_port": free_port(())})
            options = WorkerOptions(1, log_file=self.log(name), command=self._commands[release])
            self.running[name] = self._open.enter_context(WorkerProcesses(settings, options))
        for name in names:
            wait_until_ready(self.running[name])

    def stop(self, name: str) -> None:
        """Ask a worker to end, as a deployment does."""
        worker = self.running.pop(name)
        [pid] = worker.pids()
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_until(f"{name} has ended", partial(has_ended, pid), 60)
        self.exit_s[name] = time.monotonic() - started
        worker.stop()

    def log(self, name: str) -> Path:
        return self._settings.data_dir / "logs" / f"worker-{name}.log"

    def have_all(self, word: str) -> bool:
        """Tell whether each worker's log has the word."""
        return all(word in self.log(name).read_text("utf-8") for name in self.running)

    def pids(self) -> list[int]:
        return [pid for one in list(self.running.values()) for pid in one.pids()]

    def watch(self) -> None:
        """Fail where a worker ended by itself."""
        ended = [name for name, one in list(self.running.items()) if any(map(has_ended, one.pids()))]
        assert not ended


@dataclass(frozen=True)
class Upgraded:
    """What is left of an upgrade and a rollback under load, and what was seen meanwhile."""

    settings: Settings = field(repr=False)
    previous: Release
    verdict: Verdict
    exit_s: dict[str, float]
    longest_standstill_s: float
    models: dict[str, int]  # scores by model version
    restart: str  # what the old release says when a worker of it is to start on the new tables as they are


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return previous_release(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="module")
def upgraded(previous: Release) -> Iterator[Upgraded]:
    with data_folder() as own:
        own = own.model_copy(update={"topic_partitions": 4, "model_poll_s": 1.0})
        settings = local_stack.up(own, print, Ports(*lasting_ports(4)), secured=False)
        ensure_topics(settings)
        previous.run(settings, _OLD_MIGRATES + _OLD_TRAINS)
        sign_version(settings, "1")  # which the old release cannot, as docs/operations.md has it
        train_champion(settings.model_copy(update={"model_alias": "next"}), 2)
        yield there_and_back(settings, previous)


def there_and_back(settings: Settings, previous: Release) -> Upgraded:
    ledger, patients = Ledger(), Patients(1, 10_000)
    is_over = False
    feed = Feed(settings, patients.next(300, lambda: is_over), ledger, _EVENTS_PER_S)
    with Workers(settings, previous) as workers:
        watch = Watch(settings, workers)
        workers.start("old", "old-1", "old-2")
        feed.start()
        watch.start()
        applied_more(watch)

        migrate(settings.database_url)
        applied_more(watch)
        restart = previous.attempt(settings, _OLD_MIGRATES)
        workers.start("new", "new-1", "new-2")
        wait_until("all score with the old release's", partial(workers.have_all, "version 1"))
        applied_more(watch)
        set_alias(settings, "2")
        wait_until("all score with the new release's", partial(workers.have_all, "version 2"))
        applied_more(watch)
        for name in ("old-1", "old-2"):
            workers.stop(name)
            applied_more(watch)

        say_revision(settings, previous.revision)
        workers.start("old", "old-3", "old-4")
        applied_more(watch)
        for name in ("new-1", "new-2"):
            workers.stop(name)
            applied_more(watch)

        migrate(settings.database_url)
        workers.start("new", "new-3")
        is_over = True
        feed.join()
        wait_until("all is acknowledged", partial(is_acknowledged, settings), 60)
        watch.stop()
        for thread in (feed, watch):
            if thread.failure:
                raise thread.failure
        exit_s = dict(workers.exit_s)
    for version in ("1", "2"):
        set_alias(settings, version, f"version-{version}")  # which the oracle finds it by
    models = fetch(settings, "SELECT model_version, count(*) AS scores FROM risk_scores GROUP BY 1 ORDER BY 1")
    return Upgraded(
        settings,
        previous,
        judge(settings, ledger),
        exit_s,
        watch.longest_standstill_s,
        {row["model_version"]: row["scores"] for row in models},
        restart.stderr,
    )


def applied_more(watch: Watch, events: int = 60) -> None:
    """Wait until some events more are applied, so that each step is taken while events flow."""
    enough = watch.applied + events
    wait_until(f"{events} events more are applied", lambda: watch.applied >= enough, 60)
    if watch.failure:
        raise watch.failure


def say_revision(settings: Settings, revision: str) -> None:
    fetch(settings, f"UPDATE alembic_version SET version_num = '{revision}'")


_OLD_MIGRATES = """
from connectors.migrate import migrate
from connectors.settings import load_settings
migrate(load_settings().database_url)
"""
_OLD_TRAINS = """
from connectors.settings import load_settings
from tests.faults.load import train_champion
train_champion(load_settings(), 1)
"""
_OLD_READS = """
import json, sys
from connectors.registry import Registry
from connectors.settings import load_settings
registry = Registry(load_settings().schema_registry_url)
for line in sys.stdin:
    record, value = line.split()
    print(json.dumps(registry.decode(record, bytes.fromhex(value)), default=str, sort_keys=True))
"""


# --- tests


def test_the_previous_release_runs_its_own_modules(previous: Release) -> None:
    settings = Settings.model_construct()
    for module in ("healthalliance.cli", "streams.app", "connectors.store", "schemas.messages"):
        assert previous.run(settings, f"import {module} as one; print(one.__file__)").startswith(f"{previous.folder}/")


def test_nothing_is_lost_doubled_or_stale(upgraded: Upgraded) -> None:
    assert upgraded.verdict.violations() == {}
    assert upgraded.verdict.scores > 500


def test_events_are_applied_all_the_time(upgraded: Upgraded) -> None:
    assert upgraded.longest_standstill_s < _STANDSTILL_S
    assert max(upgraded.exit_s.values()) < _EXIT_S


def test_each_release_uses_models_that_the_other_registered(upgraded: Upgraded) -> None:
    """The first is the old one's, the second the new one's; nobody goes on until each worker has loaded it."""
    assert set(upgraded.models) == {"1", "2"}


def test_each_release_reads_the_others_records(upgraded: Upgraded) -> None:
    registry, lines, found = Registry(upgraded.settings.schema_registry_url), [], []
    families = {TopicFamily.RISK: "RiskScore", TopicFamily.FEATURES: "EncounterFeatures"}
    for family, record in families.items():
        for topic in topic_names(family):
            some = read_since(upgraded.settings, topic, dict.fromkeys(ends_of(upgraded.settings, topic), 0))
            values = [one.value for one in some if one.value is not None]
            lines += [f"{record} {value.hex()}\n" for value in values]
            found += [plain(registry.decode(record, value)) for value in values]
    assert found
    told = upgraded.previous.run(upgraded.settings, _OLD_READS, "".join(lines))
    assert [json.loads(line) for line in told.splitlines()] == found


def plain(record: dict[str, Any]) -> Any:
    return json.loads(json.dumps(record, default=str, sort_keys=True))


def test_an_upgraded_database_is_as_a_new_one(upgraded: Upgraded) -> None:
    with database(upgraded.settings, "new") as new:
        migrate(new.database_url)
        assert structure(upgraded.settings) == structure(new)
    assert is_migrated(upgraded.settings.database_url)


def structure(settings: Settings) -> dict[str, str]:
    """Describe tables, indexes, views and functions as PostgreSQL words them."""
    return {row["name"]: row["text"] for query in _STRUCTURE for row in fetch(settings, query)}


def test_the_old_release_refuses_newer_tables_until_it_is_told_its_own_revision(upgraded: Upgraded) -> None:
    """So docs/operations.md has a rollback to it begin with that; later ones need it no more."""
    assert "Can't locate revision" in upgraded.restart


_STRUCTURE = (
    "SELECT 'column ' || table_name || '.' || column_name AS name, "
    "concat_ws(' ', data_type, is_nullable, column_default) AS text "
    "FROM information_schema.columns WHERE table_schema = 'public'",
    "SELECT 'index ' || indexname AS name, indexdef AS text FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT 'view ' || viewname AS name, definition AS text FROM pg_views WHERE schemaname = 'public'",
    "SELECT 'function ' || proname AS name, prosrc AS text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
)
