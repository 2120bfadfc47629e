"""Full disks: small file systems under PostgreSQL and Kafka, which something else fills up."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg

from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.local_stack import Part
from schemas.errors import LocalStackError
from tests.faults.trial import Trial, has_ended, quiet_stack, what_root_lacks

_PARTS = (Part.POSTGRES, Part.KAFKA)
_SIZE = 1 << 30  # bytes
_STOP = {Part.POSTGRES: signal.SIGINT, Part.KAFKA: signal.SIGTERM}
_FULL_S = (10.0, 20.0)
_FILLER = "filled-by-something-else"


def why_not() -> str | None:
    """Say what keeps this machine from mounting small file systems, None where nothing does."""
    if (lacking := what_root_lacks(["mkfs.ext4", "mount", "umount"], "e2fsprogs mount")) is not None:
        return lacking
    with tempfile.TemporaryDirectory() as folder:
        image, point = Path(folder) / "image", Path(folder) / "point"
        point.mkdir()
        try:
            _make_and_mount(image, point, 8 << 20)
        except subprocess.CalledProcessError:
            return "this machine does not allow loop mounts"
        _unmount(point)
    return None


@contextmanager
def stack_on_small_disks(settings: Settings) -> Iterator[Settings]:
    """Run a fresh local stack whose PostgreSQL and Kafka each have a file system of their own."""
    with quiet_stack(settings) as running, ExitStack() as at_end:
        own = local_stack.apart(settings, running.data_dir)
        pids = {one.part: one.pid for one in local_stack.status(own)}
        for part in _PARTS:
            pid = pids[part]
            assert pid is not None
            os.kill(pid, _STOP[part])
            _wait_for_end(pid)
            _move_to_small_disk(running.data_dir, part, at_end)
        at_end.callback(local_stack.down, own)
        local_stack.up(own, lambda _: None)
        yield running


def _wait_for_end(pid: int, at_most_s: float = 30.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not has_ended(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not end within {at_most_s:.0f} s")
        time.sleep(0.05)


def _move_to_small_disk(data_dir: Path, part: Part, at_end: ExitStack) -> None:
    point, before = data_dir / part, data_dir / f"{part}.before"
    point.rename(before)
    point.mkdir()
    _make_and_mount(data_dir / f"{part}.image", point, _SIZE)
    at_end.callback(_unmount, point)
    (point / "lost+found").rmdir()
    _run("cp", "-a", f"{before}/.", str(point))
    shutil.rmtree(before)


def _make_and_mount(image: Path, point: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(point))


def _unmount(point: Path, tries: int = 50) -> None:
    """Unmount, as soon as the processes that were stopped have let go of their files."""
    for left in reversed(range(tries)):
        try:
            _run("umount", str(point))
            return
        except subprocess.CalledProcessError:
            if not left:
                raise
            time.sleep(0.2)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def fill_disks(trial: Trial) -> None:
    """Fill one disk after the other, make room again, and measure how long it takes until events are applied."""
    for number in trial.moments():
        part = _PARTS[number % len(_PARTS)]
        applied, filled_up = trial.watch.applied, time.monotonic()
        with _filled(trial.settings.data_dir / part):
            time.sleep(trial.rng.uniform(*_FULL_S))
            stood_s = trial.watch.standstill_s
        trial.measure(f"stood_{part}_s", min(stood_s, time.monotonic() - filled_up))
        trial.notes["applied_while_full"] = trial.notes.get("applied_while_full", 0) + trial.watch.applied - applied
        trial.measure("recovery_s", _recover(trial))


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / _FILLER
    try:
        with filler.open("wb") as file:
            free, chunk = shutil.disk_usage(folder).free, 1 << 24
            while chunk >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), min(chunk, max(free, 4096)))
                except OSError:
                    chunk //= 2
        yield
    finally:
        filler.unlink()


def _recover(trial: Trial) -> float:
    """Start again what the full disk ended, as a supervisor does, until another event is applied."""
    applied = trial.watch.applied

    def goes_on() -> bool:
        with suppress(LocalStackError):
            trial.start_parts()
        return trial.watch.applied > applied or not trial.in_flight

    return trial.wait_until(goes_on, 180, every_s=0.5)


def nothing_corrupt(trial: Trial) -> dict[str, int]:
    """Have PostgreSQL read all its pages, whose checksums it checks; rows and indexes must tell the same number."""

    async def run() -> dict[str, int]:
        connection = await asyncpg.connect(trial.settings.database_url)
        try:
            assert await connection.fetchval("SHOW data_checksums") == "on"
            differing = 0
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                counts = set()
                for by_index in ("on", "off"):
                    await connection.execute(_READ_BY_INDEX.format(by_index, "off" if by_index == "on" else "on"))
                    counts.add(await connection.fetchval(f'SELECT count(*) FROM "{row["tablename"]}"'))
                differing += len(counts) - 1
            failures = await connection.fetchval("SELECT sum(checksum_failures) FROM pg_stat_database")
        finally:
            await connection.close()
        found = {"tables that differ from their indexes": differing, "pages with a wrong checksum": int(failures or 0)}
        return {what: number for what, number in found.items() if number}

    return asyncio.run(run())


_READ_BY_INDEX = "SET enable_indexscan = {0}; SET enable_indexonlyscan = {0}; SET enable_seqscan = {1}"
