"""What the stack remembers in its data folder: which processes run where, and its secrets."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from healthalliance.local_stack.records import Part
from schemas.errors import LocalStackError

STATE_FILE = "stack.json"
_SECRETS_FILE = "secrets.json"
_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports the parts take, unless somebody else has them."""

    kafka: int = 9092
    kafka_controller: int = 9093
    registry: int = 8081
    postgres: int = 5432


@dataclass(frozen=True, slots=True)
class Running:
    """A started part: `started_at` (seconds since the epoch) tells its process from a later one with its pid."""

    pid: int
    started_at: float
    ports: tuple[int, ...]
    address: str


State = dict[Part, Running]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made once for a data folder, never shown."""

    database_password: str
    pseudonym_key: str

    def __repr__(self) -> str:
        return "Secrets(…)"


def read_state(data_dir: Path) -> State:
    """Read what was started last; a missing or damaged file reads as nothing."""
    try:
        document = json.loads((data_dir / STATE_FILE).read_text())
        return {
            Part(name): Running(int(e["pid"]), float(e["started_at"]), tuple(map(int, e["ports"])), str(e["address"]))
            for name, e in document["parts"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_state(data_dir: Path, state: State) -> None:
    """Replace the state at once, so that no reader sees half of it; nothing running removes the file."""
    if not state:
        (data_dir / STATE_FILE).unlink(missing_ok=True)
        return
    document = {"parts": {part.value: asdict(running) for part, running in state.items()}}
    write_private(data_dir / STATE_FILE, json.dumps(document, indent=2) + "\n")


def load_secrets(data_dir: Path) -> Secrets:
    """Read the folder's secrets; raise LocalStackError that names the file when it is missing or damaged."""
    path = data_dir / _SECRETS_FILE
    try:
        document = json.loads(path.read_text())
        return Secrets(str(document["database_password"]), str(document["pseudonym_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise LocalStackError(
            f"{path} is missing or damaged, and {data_dir / Part.POSTGRES} cannot be opened without it: "
            f"put it back, or delete {data_dir} to start afresh (its data are lost)."
        ) from None


def ensure_secrets(data_dir: Path) -> Secrets:
    """Read the folder's secrets, or make them for a folder that has no database yet."""
    path = data_dir / _SECRETS_FILE
    if not path.exists() and not (data_dir / Part.POSTGRES).exists():
        made = Secrets(database_password=secrets.token_urlsafe(24), pseudonym_key=secrets.token_urlsafe(36))
        write_private(path, json.dumps(asdict(made)) + "\n")
    return load_secrets(data_dir)


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, durably, readable by its owner only."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def exclusive(data_dir: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Let one `up` or `down` at a time work on the folder; the lock ends with the process that holds it."""
    with (data_dir / _LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
