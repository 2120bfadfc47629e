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

from healthalliance.api.keys import new_key
from healthalliance.local_stack.records import Part
from schemas.erasure import new_key as new_erasure_key
from schemas.errors import LocalStackError
from schemas.institutions import institutions

_STATE_FILE = "stack.json"
_PSEUDONYM_KEY_FILE = "pseudonym.key"
_DATABASE_PASSWORD_FILE = "postgres.password"
API_KEYS_FILE = "api-keys.json"
_ERASURE_KEY_FILE = "erasure.key"
_MODEL_KEYS_FILE = "model-keys.json"
_LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class Running:
    """A started part; `started_at` is in seconds since the epoch, `address` is without password."""

    pid: int
    started_at: float
    ports: tuple[int, ...]
    address: str


State = dict[Part, Running]


def read_state(data_dir: Path) -> State:
    """Read what was started last; a missing or damaged file reads as nothing."""
    try:
        document = json.loads((data_dir / _STATE_FILE).read_text())
        return {
            Part(name): Running(int(e["pid"]), float(e["started_at"]), tuple(map(int, e["ports"])), str(e["address"]))
            for name, e in document["parts"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_state(data_dir: Path, state: State) -> None:
    """Replace the state at once, so that no reader sees half of it."""
    document = {"parts": {part.value: asdict(running) for part, running in state.items()}}
    write_private(data_dir / _STATE_FILE, json.dumps(document, indent=2) + "\n")


def forget_state(data_dir: Path) -> None:
    """Remove the state: nothing of the stack runs any more."""
    (data_dir / _STATE_FILE).unlink(missing_ok=True)


def is_up(data_dir: Path) -> bool:
    """Tell whether the stack was started and not stopped since; a crash of its processes does not count."""
    return (data_dir / _STATE_FILE).exists()


def database_password(data_dir: Path) -> str:
    """Read the password of the database's folder; raise LocalStackError when it is lost."""
    return _read_secret(data_dir / _DATABASE_PASSWORD_FILE, data_dir / Part.POSTGRES)


def ensure_database_password(data_dir: Path) -> str:
    """Read the database's password, or make it for a folder that has no database yet."""
    if not (data_dir / Part.POSTGRES).exists():
        _make_secret(data_dir / _DATABASE_PASSWORD_FILE)
    return database_password(data_dir)


def pseudonym_key(data_dir: Path) -> str | None:
    """Read the key that `up` made; None when there is none."""
    try:
        return (data_dir / _PSEUDONYM_KEY_FILE).read_text().strip() or None
    except OSError:
        return None


def ensure_pseudonym_key(data_dir: Path) -> None:
    """Make the key once, for a folder that has no database yet.

    Raises LocalStackError for a database without its key: with another one no patient would be found again.
    """
    path = data_dir / _PSEUDONYM_KEY_FILE
    if not (data_dir / Part.POSTGRES).exists():
        _make_secret(path)
    _read_secret(path, data_dir / Part.POSTGRES, ", or set PSEUDONYM_KEY")


def api_keys(data_dir: Path) -> dict[str, str]:
    """Read the keys of the HTTP API that `up` made, by institution; empty when there are none."""
    try:
        return {str(id_): str(key) for id_, key in json.loads((data_dir / API_KEYS_FILE).read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def ensure_api_keys(data_dir: Path) -> None:
    """Make a key for each institution that has none yet; nothing is lost where they are made anew."""
    held = api_keys(data_dir)
    if held.keys() != institutions().keys():
        keys = {id_: held.get(id_) or new_key(id_) for id_ in institutions()}
        write_private(data_dir / API_KEYS_FILE, json.dumps(keys, indent=2) + "\n")


def erasure_key_file(data_dir: Path) -> Path | None:
    """Return where the key is that `up` made for certificates of erasure; None when there is none."""
    path = data_dir / _ERASURE_KEY_FILE
    return path if path.exists() else None


def ensure_erasure_key(data_dir: Path) -> None:
    """Make the key once; what was signed with a lost one cannot be verified here any more."""
    if erasure_key_file(data_dir) is None:
        write_private(data_dir / _ERASURE_KEY_FILE, new_erasure_key())


def model_keys(data_dir: Path) -> tuple[str, str] | None:
    """Read the key that models are signed with and its public half; None when there are none."""
    try:
        found = json.loads((data_dir / _MODEL_KEYS_FILE).read_text())
        return str(found["signing"]), str(found["public"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure_model_keys(data_dir: Path) -> None:
    """Make the pair once, for a folder without models yet: those that are there were registered unsigned."""
    if model_keys(data_dir) is None and not (data_dir / Part.MLFLOW).exists():
        from connectors.models.signing import new_key_pair  # with it come libraries that few commands need

        signing, public = new_key_pair()
        write_private(data_dir / _MODEL_KEYS_FILE, json.dumps({"signing": signing, "public": public}) + "\n")


def _make_secret(path: Path) -> None:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(36) + "\n")


def _read_secret(path: Path, needed_by: Path, otherwise: str = "") -> str:
    try:
        secret = path.read_text().strip()
    except OSError:
        secret = ""
    if secret:
        return secret
    raise LocalStackError(
        f"{path} is missing or cannot be read, but {needed_by} was made with it: put the file back{otherwise}, "
        f"or delete {needed_by} (what it holds is lost) and start again."
    )


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
def exclusive(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Let one at a time work on the folder; the lock ends with the process that holds it."""
    with (folder / _LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
