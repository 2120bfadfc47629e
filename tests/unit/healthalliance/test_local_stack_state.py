from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.local_stack import processes, state
from healthalliance.local_stack.folders import make_once
from healthalliance.local_stack.records import Part
from healthalliance.local_stack.state import Running
from schemas.errors import LocalStackError, UnavailableError

RUNNING = Running(pid=os.getpid(), started_at=1.5, ports=(1, 2), address="127.0.0.1:1")


def settings_of(data_dir: Path, **given: str) -> Settings:
    empty = dict.fromkeys(
        ("kafka_bootstrap_servers", "schema_registry_url", "database_url", "mlflow_tracking_uri", "pseudonym_key"), ""
    )
    return Settings.model_validate({"data_dir": data_dir, **empty, **given})


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state.write_state(tmp_path, {Part.KAFKA: RUNNING})
    assert state.read_state(tmp_path) == {Part.KAFKA: RUNNING}
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": []}', '{"parts": {"kafka": 1}}', '{"parts": {"x": {}}}'])
def test_a_damaged_state_reads_as_nothing_running(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    assert state.read_state(tmp_path) == {}


def test_a_remembered_pid_that_now_is_another_process_is_neither_shown_nor_stopped(tmp_path: Path) -> None:
    state.write_state(tmp_path, dict.fromkeys((Part.KAFKA, Part.REGISTRY, Part.POSTGRES), RUNNING))
    servers = local_stack.status(settings_of(tmp_path))[:3]
    assert [part.state for part in servers] == ["stopped"] * 3
    assert local_stack.down(settings_of(tmp_path)) == ()


def test_secrets_are_made_once_and_are_the_owners_only(tmp_path: Path) -> None:
    password = state.ensure_database_password(tmp_path)
    state.ensure_pseudonym_key(tmp_path)
    key = state.pseudonym_key(tmp_path)
    assert state.ensure_database_password(tmp_path) == password
    state.ensure_pseudonym_key(tmp_path)
    assert state.pseudonym_key(tmp_path) == key
    assert key is not None
    assert len(key) >= 32
    assert key != password
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_database_without_its_secrets_is_refused_not_given_new_ones(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(LocalStackError, match=r"postgres\.password is missing"):
        state.ensure_database_password(tmp_path)
    with pytest.raises(LocalStackError, match="set PSEUDONYM_KEY"):
        state.ensure_pseudonym_key(tmp_path)


def test_connected_says_what_is_missing_and_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"Apache Kafka is not running .* `healthalliance up`"):
        local_stack.connected(settings_of(tmp_path))


def test_connected_keeps_every_given_setting(tmp_path: Path) -> None:
    given = settings_of(
        tmp_path,
        kafka_bootstrap_servers="broker:9092",
        schema_registry_url="http://registry",
        database_url="postgresql://u:p@db/x",
        mlflow_tracking_uri="http://mlflow",
        pseudonym_key="k" * 32,
    )
    assert local_stack.connected(given) == given


def test_status_shows_a_given_address_without_its_password(tmp_path: Path) -> None:
    given = settings_of(tmp_path, database_url="postgresql://u:secret@db/x", kafka_bootstrap_servers="a:1,b:2")
    parts = {part.part: part for part in local_stack.status(given)}
    assert parts[Part.POSTGRES].address == "postgresql://u:***@db/x"
    assert parts[Part.KAFKA].address == "a:1,b:2"
    assert {parts[Part.POSTGRES].state, parts[Part.KAFKA].state} == {"external"}


def test_down_where_nothing_ever_was_does_nothing(tmp_path: Path) -> None:
    assert local_stack.down(settings_of(tmp_path / "none")) == ()
    assert not (tmp_path / "none").exists()


def test_a_file_in_the_data_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStackError, match="cannot be used as DATA_DIR"):
        local_stack.up(settings_of(tmp_path / "file"), print)


def test_one_at_a_time_works_on_a_folder(tmp_path: Path) -> None:
    waited, order = threading.Event(), []

    def second() -> None:
        with state.exclusive(tmp_path, waited.set):
            order.append("second")

    with state.exclusive(tmp_path, lambda: pytest.fail("nobody else works here")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "made", "proof", fails)
    assert not (tmp_path / "made").exists()
    make_once(tmp_path / "made", "proof", lambda folder: (folder / "proof").touch())
    make_once(tmp_path / "made", "proof", lambda _: pytest.fail("it is there already"))
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["proof"]


def test_a_folder_that_lost_its_proof_is_named_for_deletion(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(LocalStackError, match=f"delete {tmp_path}/made"):
        make_once(tmp_path / "made", "proof", lambda _: None)


def test_the_state_file_is_plain_json_without_secrets(tmp_path: Path) -> None:
    state.write_state(tmp_path, {Part.POSTGRES: RUNNING})
    entry = json.loads((tmp_path / "stack.json").read_text())["parts"]["postgres"]
    assert entry == {"pid": os.getpid(), "started_at": 1.5, "ports": [1, 2], "address": "127.0.0.1:1"}


def test_a_mark_is_of_one_part_of_one_folder(tmp_path: Path) -> None:
    marks = {processes.marker(part, folder) for part in Part for folder in (tmp_path, tmp_path / "other")}
    assert len(marks) == 2 * len(Part)
