"""Reading the settings: the environment goes before `.env`, empty means local, errors name the variable only."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.settings import Settings, load_settings
from schemas.errors import ConfigurationError

SECRET = "a secret that is long enough to be one"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_without_anything_set_every_address_is_empty_and_means_the_local_stack() -> None:
    settings = load_settings()
    addresses = {name: value for name, value in settings if name.endswith(("_url", "_uri", "_servers"))}
    assert not any(addresses.pop(name).get_secret_value() for name in ("alert_webhook_url", "alert_slack_url"))
    assert addresses == {
        "kafka_bootstrap_servers": "",
        "schema_registry_url": "",
        "database_url": "",
        "mlflow_tracking_uri": "",
        "dvc_remote_url": "",  # the local stack has none: nothing is pushed
        "alert_worklist_url": "",  # alerts link nowhere
    }
    assert settings.data_dir == Path(".local")


def test_the_file_goes_before_the_default_and_the_environment_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("MODEL_NAME=from-file\nMODEL_ALIAS=from-file\n", "utf-8")
    monkeypatch.setenv("MODEL_ALIAS", "from-environment")
    settings = load_settings()
    assert (settings.model_name, settings.model_alias) == ("from-file", "from-environment")
    assert settings.consumer_group == "healthalliance-worker"


def test_an_empty_variable_of_the_environment_means_local_whatever_the_file_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("DATABASE_URL=postgresql://elsewhere\n", "utf-8")
    monkeypatch.setenv("DATABASE_URL", "")
    assert load_settings().database_url == ""


def test_what_is_no_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SOMEBODY_ELSES=1\n", "utf-8")
    monkeypatch.setenv("MODEL_NAMES", "x")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOPIC_PARTITIONS", "0"), ("REJECTED_SHARE_LIMIT", "1.5"), ("METRICS_PORT", "70000"), ("LOG_LEVEL", "loud"),
     ("STRUCTURE_VALIDATOR", "guess"), ("MODEL_POLL_S", "-1"), ("BATCH_MAX_EVENTS", "many-of-them")],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_by_its_name_without_being_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}: ") as caught:
        load_settings()
    assert value == "0" or value not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_secret_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", SECRET)
    settings = load_settings()
    assert settings.pseudonym_key.get_secret_value() == SECRET
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump_json()}"


def test_settings_do_not_change_while_they_are_in_use() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().log_level = "DEBUG"  # type: ignore[misc]  # forbidden on purpose
