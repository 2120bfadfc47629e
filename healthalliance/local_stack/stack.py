"""The whole stack: start it, stop it, ask how it is, and where it answers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

import psutil
from pydantic import SecretStr

from connectors.settings import Settings
from healthalliance.local_stack import postgres, processes
from healthalliance.local_stack.records import (
    ADDRESS_SETTINGS,
    LABELS,
    Addresses,
    Part,
    PartStatus,
    Progress,
    Report,
    given_address,
)
from healthalliance.local_stack.starter import Starter
from healthalliance.local_stack.state import (
    Ports,
    State,
    exclusive,
    forget_state,
    is_up,
    load_secrets,
    read_state,
    write_state,
)
from schemas.errors import LocalStackError, UnavailableError

# The parts that are processes; the model store is a file.
SERVERS = (Part.KAFKA, Part.REGISTRY, Part.POSTGRES)
_DEFAULT_PORTS = Ports()


def up(settings: Settings, report: Report, ports: Ports = _DEFAULT_PORTS) -> Addresses:
    """Start what no given address replaces and does not run yet; return once every part answers.

    A port that is taken is replaced by a free one. `report` is told each step, from several threads but never at
    once. Raises LocalStackError when a part cannot be started; what this call started is stopped then.
    """
    data_dir, report = _make_data_dir(settings), _one_at_a_time(report)
    with exclusive(data_dir, lambda: report(Progress(None, "waits for another start or stop of this stack"))):
        state = _still_running(data_dir)
        missing = [part for part in SERVERS if part not in state and not given_address(settings, part)]
        _stop(data_dir, missing, report)
        if missing:
            state |= Starter(data_dir, ports, read_state(data_dir), report).start(missing)
        _mlflow_artifacts(data_dir).mkdir(parents=True, exist_ok=True)
        write_state(data_dir, state)
    return _addresses(connected(settings))


def down(settings: Settings, report: Report) -> tuple[Part, ...]:
    """Stop all that runs of this data folder's stack, remembered or not, within 10 s; return what was stopped.

    Data stay. External parts are left alone. Raises LocalStackError when a process survives even being killed.
    """
    data_dir, report = _data_dir(settings), _one_at_a_time(report)
    if not data_dir.exists():
        return ()
    with exclusive(data_dir, lambda: report(Progress(None, "waits for another start or stop of this stack"))):
        stopped = _stop(data_dir, SERVERS, report)
        forget_state(data_dir)
    return stopped


def status(settings: Settings) -> tuple[PartStatus, ...]:
    """Say how each part is; changes nothing. The database's address is shown without its password."""
    data_dir = _data_dir(settings)
    state = _still_running(data_dir)
    return tuple(_status(settings, data_dir, state, part) for part in Part)


def connected(settings: Settings) -> Settings:
    """Fill the empty addresses from the running stack, and the pseudonym key where the database is the stack's.

    Raises UnavailableError when a part is neither given nor running.
    """
    data_dir = _data_dir(settings)
    state = _still_running(data_dir)
    found: dict[str, object] = {"data_dir": data_dir}
    for part in Part:
        if not given_address(settings, part):
            found[ADDRESS_SETTINGS[part]] = _own_address(data_dir, state, part)
    if not settings.database_url:
        secrets = load_secrets(data_dir)
        found["database_url"] = postgres.with_password(str(found["database_url"]), secrets)
        if not settings.pseudonym_key.get_secret_value():
            found["pseudonym_key"] = SecretStr(secrets.pseudonym_key)
    return settings.model_copy(update=found)


def _data_dir(settings: Settings) -> Path:
    return settings.data_dir.expanduser().resolve()


def _make_data_dir(settings: Settings) -> Path:
    data_dir = _data_dir(settings)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir.chmod(0o711)  # passed through by the database's account, listed by the owner only
    except OSError as error:
        raise LocalStackError(f"{data_dir} cannot be used as DATA_DIR: {error.strerror}.") from None
    return data_dir


def _one_at_a_time(report: Report) -> Report:
    lock = threading.Lock()

    def locked(progress: Progress) -> None:
        with lock:
            report(progress)

    return locked


def _still_running(data_dir: Path) -> State:
    """Keep of the remembered parts those whose process is alive and theirs."""
    return {part: running for part, running in read_state(data_dir).items() if _process(data_dir, part, running.pid)}


def _process(data_dir: Path, part: Part, pid: int) -> psutil.Process | None:
    return processes.find_marked_pid(pid, processes.marker(part, data_dir))


def _stop(data_dir: Path, parts: Collection[Part], report: Report) -> tuple[Part, ...]:
    """Stop the parts' processes together, and the database's workers that a killed server left behind."""
    found = {part: processes.find_marked(processes.marker(part, data_dir)) for part in parts}
    for part, running in found.items():
        if running:
            report(Progress(part, "stops"))
    left = processes.stop(
        {
            process: postgres.STOP_SIGNAL if part is Part.POSTGRES else signal.SIGTERM
            for part, running in found.items()
            for process in running
        }
    )
    if Part.POSTGRES in parts:
        left += processes.stop(dict.fromkeys(postgres.leftovers(data_dir), signal.SIGQUIT), timeout_s=0.5)
    _refuse_survivors(left)
    return tuple(part for part, running in found.items() if running)


def _refuse_survivors(left: Iterable[psutil.Process]) -> None:
    pids = ", ".join(str(process.pid) for process in left)
    if pids:
        raise LocalStackError(f"These processes could not be stopped, not even killed: {pids}.")


def _own_address(data_dir: Path, state: State, part: Part) -> str:
    if part is Part.MLFLOW and is_up(data_dir):
        return _mlflow_address(data_dir)
    if part not in state:
        label = LABELS[part][0].upper() + LABELS[part][1:]
        raise UnavailableError(
            f"{label} is not running here and {ADDRESS_SETTINGS[part].upper()} is not set: "
            "start it with `healthalliance up`."
        )
    return state[part].address


def _addresses(settings: Settings) -> Addresses:
    return Addresses(
        kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
        schema_registry_url=settings.schema_registry_url,
        database_url=settings.database_url,
        mlflow_tracking_uri=settings.mlflow_tracking_uri,
        mlflow_artifacts=_mlflow_artifacts(settings.data_dir),
    )


def _mlflow_address(data_dir: Path) -> str:
    return f"sqlite:///{data_dir / Part.MLFLOW / 'mlflow.db'}"


def _mlflow_artifacts(data_dir: Path) -> Path:
    return data_dir / Part.MLFLOW / "artifacts"


def _status(settings: Settings, data_dir: Path, state: State, part: Part) -> PartStatus:
    if given := given_address(settings, part):
        return PartStatus(part, "external", processes.without_password(given))
    if part is Part.MLFLOW:
        return PartStatus(part, "running" if is_up(data_dir) else "stopped", _mlflow_address(data_dir))
    running = state.get(part)
    process = _process(data_dir, part, running.pid) if running else None
    if running is None or process is None:
        return PartStatus(part, "stopped", "")
    return PartStatus(part, "running", running.address, running.pid, processes.memory_bytes(process))
