"""The whole stack: start it, stop it, ask how it is, and where it answers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from pydantic import SecretStr

from connectors.settings import Settings
from healthalliance.api.keys import key_hash
from healthalliance.local_stack import postgres, processes
from healthalliance.local_stack.kafka_users import KafkaUsers
from healthalliance.local_stack.ports import DEFAULT_PORTS, Ports
from healthalliance.local_stack.records import ADDRESS_SETTINGS, LABELS, Part, PartStatus, Say, given_address
from healthalliance.local_stack.starter import Starter
from healthalliance.local_stack.state import (
    API_KEYS_FILE,
    Running,
    State,
    api_keys,
    database_password,
    ensure_api_keys,
    ensure_erasure_key,
    ensure_model_keys,
    ensure_pseudonym_key,
    erasure_key_file,
    exclusive,
    forget_state,
    is_up,
    model_keys,
    pseudonym_key,
    read_state,
    write_state,
)
from schemas.access import ADMIN
from schemas.errors import LocalStackError, UnavailableError

# The parts that are processes; the model store is a file.
_SERVERS = (Part.KAFKA, Part.REGISTRY, Part.POSTGRES)


def up(settings: Settings, say: Say, ports: Ports = DEFAULT_PORTS, *, secured: bool = True) -> Settings:
    """Start what no given address replaces and does not run yet; return the settings with every address filled in.

    Returns once every part answers, its Kafka as the administrator. A new Kafka is `secured`: encrypted, with users
    and access rules; one that was made without goes on so. A port that is taken is replaced by a free one. `say` is
    told each step, from several threads but never at once. Raises LocalStackError when a part cannot be started; what
    this call started is stopped then, what ran before goes on.
    """
    data_dir, say = _make_data_dir(settings), _one_at_a_time(say)
    with exclusive(data_dir, lambda: say("Another start or stop of this stack is under way: waiting for it")):
        if not settings.pseudonym_key.get_secret_value():
            ensure_pseudonym_key(data_dir)
        if not settings.institution_api_key:
            ensure_api_keys(data_dir)
        if not settings.erasure_key_location:
            ensure_erasure_key(data_dir)
        if not given_address(settings, Part.MLFLOW):
            ensure_model_keys(data_dir)
        state = _still_running(data_dir)
        missing = [part for part in _SERVERS if part not in state and not given_address(settings, part)]
        _stop(data_dir, missing)
        if missing:
            state |= Starter(data_dir, ports, read_state(data_dir), say, secured=secured).start(missing)
        (data_dir / Part.MLFLOW / "artifacts").mkdir(parents=True, exist_ok=True)
        write_state(data_dir, state)
        running = connected(settings)
        if Part.KAFKA in state and (users := KafkaUsers(data_dir)).exist:
            users.let_in(running)
            users.apply_rules(running)
    return running


def down(settings: Settings) -> tuple[Part, ...]:
    """Stop all that runs of this data folder's stack, remembered or not, within 10 s; return what was stopped.

    Data stay. External parts are left alone. Raises LocalStackError when a process survives even being killed.
    """
    data_dir = _data_dir(settings)
    if not data_dir.is_dir():
        return ()
    with exclusive(data_dir, lambda: None):
        stopped = _stop(data_dir, _SERVERS)
        forget_state(data_dir)
    return stopped


def status(settings: Settings) -> list[PartStatus]:
    """Say how each part is; change nothing."""
    data_dir = _data_dir(settings)
    state = _still_running(data_dir)
    return [_status(settings, data_dir, state.get(part), part) for part in Part]


def connected(settings: Settings, parts: Iterable[Part] | None = None, user: str = ADMIN) -> Settings:
    """Fill the empty addresses of `parts` from the running stack; where none are named, of all, and the keys.

    `user` is who comes to the stack's own Kafka.
    Raises UnavailableError when one of them is neither given nor running.
    """
    data_dir = _data_dir(settings)
    state = _still_running(data_dir)
    found: dict[str, object] = {"data_dir": data_dir}
    for part in Part if parts is None else parts:
        if not given_address(settings, part):
            found[ADDRESS_SETTINGS[part]] = _own_address(data_dir, state.get(part), part)
            if part is Part.KAFKA:
                found |= _kafka_access(data_dir, user)
    if "mlflow_tracking_uri" in found:
        found |= _own_model_keys(settings, data_dir)
    if parts is None and not settings.pseudonym_key.get_secret_value():
        found["pseudonym_key"] = SecretStr(_own_pseudonym_key(data_dir))
    if parts is None and not settings.institution_api_key:
        found["institution_api_key"] = {id_: key_hash(key) for id_, key in api_keys(data_dir).items()}
    settings = with_erasure_key(settings) if parts is None else settings
    return settings.model_copy(update=found)


def as_user(running: Settings, user: str) -> Settings:
    """Return the settings of a running stack for another user of its Kafka."""
    return running.model_copy(update=_kafka_access(_data_dir(running), user))


def _kafka_access(data_dir: Path, user: str) -> dict[str, object]:
    """Return how to come to the stack's own Kafka, whatever is set for other brokers."""
    users = KafkaUsers(data_dir)
    return users.settings(user) if users.exist else {"kafka_security_protocol": "PLAINTEXT"}


def with_erasure_key(settings: Settings) -> Settings:
    """Fill in where the stack's key for certificates of erasure is, where none is set and there is one."""
    key_file = None if settings.erasure_key_location else erasure_key_file(_data_dir(settings))
    return settings.model_copy(update={"erasure_key_location": str(key_file)}) if key_file else settings


def apart(settings: Settings, data_dir: Path) -> Settings:
    """Return settings for a stack of its own in `data_dir`, whatever addresses and key are given."""
    given = dict.fromkeys(ADDRESS_SETTINGS.values(), "")
    keys = {
        "pseudonym_key": SecretStr(""), "institution_api_key": {}, "erasure_key_location": "",
        "model_signing_key": SecretStr(""), "model_public_keys": "",
    }  # fmt: skip
    return settings.model_copy(update={**given, **keys, "data_dir": data_dir})


def api_keys_file(settings: Settings) -> Path:
    """Return where the keys of the HTTP API are that the stack made."""
    return _data_dir(settings) / API_KEYS_FILE


def psql_command(settings: Settings) -> str:
    """Return the shell command that opens the running stack's own database; its password stays in a file."""
    data_dir = _data_dir(settings)
    file = data_dir / "pgpass"
    file.touch(0o600)
    file.write_text(f"*:*:*:*:{database_password(data_dir)}\n", "utf-8")
    program = "psql" if shutil.which("psql") else str(postgres.binaries() / "psql")
    return f"PGPASSFILE={file} {program} {_still_running(data_dir)[Part.POSTGRES].address}"


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


def _one_at_a_time(say: Say) -> Say:
    lock = threading.Lock()

    def locked(text: str) -> None:
        with lock:
            say(text)

    return locked


def _still_running(data_dir: Path) -> State:
    """Keep of the remembered parts those whose process is alive and theirs."""
    return {part: running for part, running in read_state(data_dir).items() if _process(data_dir, part, running)}


def _process(data_dir: Path, part: Part, running: Running) -> psutil.Process | None:
    return processes.find_marked_pid(running.pid, processes.marker(part, data_dir))


def _stop(data_dir: Path, parts: Collection[Part]) -> tuple[Part, ...]:
    """Stop the parts' processes together, and the database's workers that a killed server left behind."""
    found = {part: processes.find_marked(processes.marker(part, data_dir)) for part in parts}
    left = processes.stop(
        {
            process: postgres.STOP_SIGNAL if part is Part.POSTGRES else processes.STOP_SIGNAL
            for part, running in found.items()
            for process in running
        }
    )
    if Part.POSTGRES in parts:
        left += postgres.stop_leftovers(data_dir)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise LocalStackError(f"These processes could not be stopped, not even killed: {pids}.")
    return tuple(part for part, running in found.items() if running)


def _own_address(data_dir: Path, running: Running | None, part: Part) -> str:
    if part is Part.MLFLOW and is_up(data_dir):
        return _mlflow_address(data_dir)
    if running is None:
        raise UnavailableError(
            f"{LABELS[part]} is not running and {ADDRESS_SETTINGS[part].upper()} is not set: "
            "start it with `healthalliance up`."
        )
    return (
        postgres.with_password(running.address, database_password(data_dir))
        if part is Part.POSTGRES
        else running.address
    )


def _own_pseudonym_key(data_dir: Path) -> str:
    key = pseudonym_key(data_dir)
    if key is None:
        raise UnavailableError("PSEUDONYM_KEY is not set and none was made yet: make one with `healthalliance up`.")
    return key


def _own_model_keys(settings: Settings, data_dir: Path) -> dict[str, object]:
    keys = model_keys(data_dir)
    if keys is None or settings.model_public_keys or settings.model_signing_key.get_secret_value():
        return {}
    return {"model_signing_key": SecretStr(keys[0]), "model_public_keys": keys[1]}


def _mlflow_address(data_dir: Path) -> str:
    return f"sqlite:///{data_dir / Part.MLFLOW / 'mlflow.db'}"


def _status(settings: Settings, data_dir: Path, running: Running | None, part: Part) -> PartStatus:
    if given := given_address(settings, part):
        return PartStatus(part, "external", _without_password(given))
    if part is Part.MLFLOW:
        return (
            PartStatus(part, "running", _mlflow_address(data_dir))
            if is_up(data_dir)
            else PartStatus(part, "stopped", "")
        )
    process = _process(data_dir, part, running) if running else None
    if running is None or process is None:
        return PartStatus(part, "stopped", "")
    return PartStatus(part, "running", running.address, process.pid, processes.memory_bytes(process))


def _without_password(address: str) -> str:
    """Mask a URL's password; what is no URL has none."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return "***"
    return address.replace(f":{password}@", ":***@", 1) if password else address
