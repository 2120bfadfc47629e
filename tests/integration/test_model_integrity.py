"""Worker, API and commands refuse a file that the trainer did not sign, never run it, and go on with the good one."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from connectors.models import sha256
from connectors.models.champion import FILE_NAME, sqlite_path
from connectors.models.versions import find_version, load_found, set_alias
from connectors.settings import Settings
from model_training.job import train
from schemas.errors import ModelRefusedError
from tests.integration.asking import ask, value_of
from tests.integration.command_line import run
from tests.integration.running import Trained, ready_worker, wait_until
from tests.integration.running_api import running_api
from tests.unit.connectors.test_model_signing import Malicious

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

NAME = "watched"


@pytest.fixture(scope="module")
def own(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Have a registered model of this module's own, with two good versions; the first is champion."""
    settings = trained.settings.model_copy(update={"model_name": NAME, "model_poll_s": 0.5})
    for seed in (1, 2):
        train(settings, seed)
    set_alias(settings, "1")
    return settings


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marker") / "unpickled"


def put_in_place(settings: Settings, version: str, data: bytes) -> None:
    """Replace a version's file and its digest, as whoever may write the registry can."""
    with closing(sqlite3.connect(sqlite_path(settings.mlflow_tracking_uri))) as connection, connection:
        [[source]] = connection.execute(
            "SELECT source FROM model_versions WHERE name = ? AND version = ?", (NAME, int(version))
        )
        path = Path(unquote(urlsplit(source).path)) / FILE_NAME
        path.write_bytes(data)
        connection.execute(
            "UPDATE model_version_tags SET value = ? WHERE name = ? AND version = ? AND key = 'digest'",
            (sha256(data), NAME, int(version)),
        )


def test_a_pickle_with_its_digest_is_refused_by_all_and_the_last_good_model_goes_on(
    own: Settings, marker: Path
) -> None:
    assert own.model_public_keys, "the local stack has made a key"
    assert find_version(own, "2").tags["signature"]
    with ready_worker(own) as workers, running_api(own) as api, api.client("dkfz") as client:
        put_in_place(own, "2", pickle.dumps(Malicious(marker)))
        set_alias(own, "2")
        wait_until(
            "the worker has refused it",
            lambda: value_of(workers, "healthalliance_model_refusals_total", reason="signed-by") > 0,
            180,
        )
        assert value_of(workers, "healthalliance_model", name=NAME, version="1") == 1
        assert ask(workers, "/readyz").code == 200
        wait_until("the API has looked", lambda: "signed by none" in api_log(own), 180)
        assert client.get("/health").json()["model_version"] == "1"
    with pytest.raises(ModelRefusedError):
        load_found(own, "2")
    ended = run(own, "model", "promote", "2", "--force")
    assert (ended.code, "signed by none of MODEL_PUBLIC_KEYS" in ended.stderr) == (5, True)
    assert not marker.exists()


def api_log(settings: Settings) -> str:
    return (settings.data_dir / "logs" / "api.log").read_text("utf-8", "replace")
