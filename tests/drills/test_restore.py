"""A database is restored to a moment before harm by the page's commands, and the topics bring what came after it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.local_stack import Part, postgres, processes
from healthalliance.local_stack.ports import free_port
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.rebuild import Rebuilt, rebuild
from schemas.errors import LocalStackError, UnavailableError
from schemas.institutions import institutions
from tests.documents import blocks, section
from tests.drills.test_rebuild import TABLES, histories, rows
from tests.faults.load import train_champion
from tests.faults.trial import has_ended
from tests.integration.eventful import one_after_the_other, send
from tests.integration.running import ready_worker, wait_until
from tests.integration.simulated import events_of

pytestmark = pytest.mark.stack

_INSTITUTION = "dkfz"
_PAGES_MOMENT = "2025-03-01 12:00:00+00"
_ARCHIVE, _BACKUP, _RESTORED = ("/srv/archive", "/srv/backup", "/srv/restored")

# Of the page's section, in its order.
_ARCHIVING, _BACKING_UP, _RESTORING = (
    one.text for one in blocks(section("docs/operations.md", "Backup and restore")) if one.language == "sh"
)


@dataclass(frozen=True, slots=True)
class Held:
    """What the tables hold of the institution: rows as texts, histories unsealed."""

    tables: dict[str, list[str]] = field(repr=False)
    histories: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Site:
    """A server that archives its log, and the folder that archive and backup are in, both its account's."""

    settings: Settings = field(repr=False)
    folder: Path

    @property
    def owner(self) -> tuple[int, int]:
        found = (self.settings.data_dir / Part.POSTGRES).stat()
        return found.st_uid, found.st_gid

    def run(self, commands: str, stands_for: Mapping[str, str]) -> None:
        """Run a block of the page as the server's account; `stands_for`: what is called otherwise here."""
        for on_page, here in {
            _ARCHIVE: f"{self.folder}/archive",
            _BACKUP: f"{self.folder}/backup",
            **stands_for,
        }.items():
            commands = commands.replace(on_page, here)
        url, (uid, gid) = urlsplit(self.settings.database_url), self.owner
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env={
                "PATH": f"{postgres.binaries()}{os.pathsep}{os.environ['PATH']}",
                "PGHOST": str(url.hostname),
                "PGPORT": str(url.port),
                "PGDATABASE": url.path.removeprefix("/"),
                "PGUSER": str(url.username),
                "PGPASSWORD": str(url.password),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            user=uid,
            group=gid,
        )
        assert done.returncode == 0, done.stderr + done.stdout


@dataclass(frozen=True)
class Harmed:
    """A database that held one thing at a moment, another before harm was done, and its log up to behind the harm."""

    site: Site
    moment: datetime
    then: Held
    undisturbed: Held
    harm: datetime


@pytest.fixture(scope="module")
def harmed(own_stack: Settings) -> Harmed:
    site = Site(own_stack, own_stack.data_dir / "recovery")
    for folder in (site.folder, site.folder / "archive"):
        folder.mkdir()
        os.chown(folder, *site.owner)
    site.run(_ARCHIVING, {})
    restart(site.settings)
    settings = site.settings
    train_champion(settings, 1)
    with ready_worker(settings):
        publish(settings, "early", 30)
        site.run(_BACKING_UP, {})
        verify(site)
        publish(settings, "later", 20)
        then, moment = held(settings), last_commit(settings)
        for events in one_after_the_other(_INSTITUTION):
            send(settings, *events)
            wait_until_applied(settings, 120)
        publish(settings, "afterwards", 10)
    undisturbed = held(settings)
    fetch(settings, "TRUNCATE risk_scores, score_outcomes")
    fetch(settings, "DELETE FROM patient_history WHERE institution = $1", _INSTITUTION)
    harm = last_commit(settings)
    fetch(settings, "SELECT pg_current_xact_id()")  # a moment is only found where something was committed after it
    [row] = fetch(settings, "SELECT pg_walfile_name(pg_switch_wal()) AS segment")
    wait_until("the log is archived", (site.folder / "archive" / row["segment"]).exists)
    return Harmed(site, moment, then, undisturbed, harm)


@dataclass(frozen=True)
class Recovered:
    """A database that was restored, what it held then, and what once the topics brought the rest."""

    settings: Settings = field(repr=False)
    then: Held
    rebuilt: Held
    report: list[Rebuilt]


@pytest.fixture(scope="module")
def recovered(harmed: Harmed) -> Iterator[Recovered]:
    with restored(harmed.site, "recovered", harmed.moment) as settings:
        then = held(settings)
        report = [rebuild(settings, one) for one in institutions()]
        yield Recovered(settings, then, held(settings), report)


def verify(site: Site) -> None:
    """Compare the backup with its manifest and read its log, as pg_verifybackup does, which crashes here."""
    backup = site.folder / "backup"
    manifest = json.loads((backup / "backup_manifest").read_text("utf-8"))
    for one in manifest["Files"]:
        assert sha256((backup / one["Path"]).read_bytes()).hexdigest() == one["Checksum"], one["Path"]
    [log] = manifest["WAL-Ranges"]
    site.run(f"pg_waldump --quiet --path={_BACKUP}/pg_wal --start={log['Start-LSN']} --end={log['End-LSN']}", {})


def restart(settings: Settings) -> None:
    """Restart PostgreSQL, as a new archive_mode asks for."""
    own = local_stack.apart(settings, settings.data_dir)
    [pid] = [one.pid for one in local_stack.status(own) if one.part is Part.POSTGRES and one.pid]
    os.kill(pid, signal.SIGINT)
    wait_until("PostgreSQL has ended", lambda: has_ended(pid))
    local_stack.up(own, print)


def publish(settings: Settings, name: str, patients: int) -> None:
    publish_events(settings, _INSTITUTION, events_of(name, _INSTITUTION, patients, datetime(2024, 2, 1, tzinfo=UTC)))
    wait_until_applied(settings, 120)


def held(settings: Settings) -> Held:
    return Held({table: rows(settings, table) for table in TABLES}, histories(settings))


def last_commit(settings: Settings) -> datetime:
    [row] = fetch(settings, "SELECT timestamp FROM pg_last_committed_xact()")
    moment: datetime = row["timestamp"]
    return moment


@contextmanager
def restored(site: Site, name: str, moment: datetime, archive: Path | None = None) -> Iterator[Settings]:
    """Restore into a folder of that name and run a server on it, promoted, until the end of the block."""
    folder = site.folder / name
    given = {_RESTORED: str(folder), _PAGES_MOMENT: moment.isoformat()}
    site.run(_RESTORING, given if archive is None else {_ARCHIVE: str(archive), **given})
    port = free_port(())
    usual = postgres.prepare(site.settings.data_dir, port, print, threading.Event())
    command = [str(folder) if one == str(usual.folder) else one for one in usual.command]
    log = site.settings.data_dir / "logs" / f"{name}.log"
    launch = replace(usual, command=(*command, "--archive_mode=off"), folder=folder, log=log)
    process = processes.start(launch, threading.Event())
    try:
        url = urlsplit(site.settings.database_url)
        netloc = url.netloc.replace(f":{url.port}", f":{port}")
        settings = site.settings.model_copy(update={"database_url": url._replace(netloc=netloc).geturl()})
        wait_until(f"it is promoted; see {log}", lambda: ended(process) or is_promoted(settings))
        if ended(process):
            raise LocalStackError(log.read_text())
        yield settings
    finally:
        processes.stop({process: postgres.STOP_SIGNAL})


def is_promoted(settings: Settings) -> bool:
    try:
        return not fetch(settings, "SELECT pg_is_in_recovery() AS it_is")[0]["it_is"]
    except UnavailableError:
        return False


def ended(process: psutil.Process) -> bool:
    return not processes.is_running(process)


# --- tests


@pytest.mark.parametrize("table", TABLES)
def test_a_restored_table_holds_what_it_did_at_that_moment(harmed: Harmed, recovered: Recovered, table: str) -> None:
    assert harmed.then.tables[table]
    assert harmed.then.tables[table] != harmed.undisturbed.tables[table]
    assert recovered.then.tables[table] == harmed.then.tables[table]


def test_restored_histories_are_those_of_that_moment(harmed: Harmed, recovered: Recovered) -> None:
    assert harmed.then.histories != harmed.undisturbed.histories
    assert recovered.then.histories == harmed.then.histories


@pytest.mark.parametrize("table", TABLES)
def test_the_topics_bring_what_came_after_it(harmed: Harmed, recovered: Recovered, table: str) -> None:
    assert recovered.rebuilt.tables[table] == harmed.undisturbed.tables[table]


def test_histories_are_as_if_nothing_had_happened(harmed: Harmed, recovered: Recovered) -> None:
    assert recovered.rebuilt.histories == harmed.undisturbed.histories


def test_each_score_that_was_published_is_in_the_table_with_its_probability(recovered: Recovered) -> None:
    [own] = [one for one in recovered.report if one.institution == _INSTITUTION]
    assert own.events > 0
    assert (own.equal, own.begins_later) == (own.published, False)


def test_workers_go_on_with_the_restored_database(recovered: Recovered) -> None:
    with ready_worker(recovered.settings):
        publish(recovered.settings, "again", 5)
    assert len(rows(recovered.settings, "risk_scores")) > len(recovered.rebuilt.tables["risk_scores"])


def test_a_restore_past_a_missing_segment_does_not_start(harmed: Harmed) -> None:
    gap = harmed.site.folder / "gap"
    shutil.copytree(harmed.site.folder / "archive", gap)
    segments = sorted(one for one in gap.iterdir() if len(one.name) == 24)  # no labels of backups
    in_backup = max(one.name for one in (harmed.site.folder / "backup" / "pg_wal").iterdir() if len(one.name) == 24)
    next(one for one in segments if one.name > in_backup).unlink()
    with (
        pytest.raises(LocalStackError, match="recovery ended before configured recovery target was reached"),
        restored(harmed.site, "with-a-gap", harmed.moment, gap),
    ):
        pass


def test_a_moment_behind_the_harm_brings_the_harm_back(harmed: Harmed) -> None:
    with restored(harmed.site, "too-late", harmed.harm) as settings:
        assert rows(settings, "risk_scores") == []
