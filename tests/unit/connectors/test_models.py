from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from connectors.models import (
    Candidate,
    OnnxModel,
    champion_version,
    load,
    load_champion,
    load_model,
    register,
    set_alias,
    sha256,
)
from connectors.partition_ends import PartitionEnd
from connectors.settings import Settings
from model_training.forest_onnx import build, raw_baseline
from schemas.errors import ConfigurationError, ModelRefusedError, NoModelError, UnavailableError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import Model, ModelCard, Sigmoid, Thresholds, explain

ROWS = np.random.default_rng(1).uniform(0, 10, (200, len(FEATURE_NAMES))).astype(np.float32)


def forest_file(seed: int = 1, features: int = len(FEATURE_NAMES), **changed: Any) -> bytes:
    rows = ROWS[:, :features]
    forest = RandomForestClassifier(n_estimators=5, max_depth=3, random_state=seed).fit(rows, rows[:, 0] > 5)
    card = ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(forest),
        calibration=Sigmoid(4.0, -3.0),
        thresholds=Thresholds(0.1, 0.2),
    )
    return build(forest, msgspec.structs.replace(card, **changed))


def candidate(seed: int = 1) -> Candidate:
    ends = [PartitionEnd("features.dkfz", "id", 0, 7)]
    return Candidate(forest_file(seed), {"n_estimators": 5}, {"auroc": 0.7}, ends, "A small forest.")


def settings_in(folder: Path, tracking_uri: str | None = None) -> Settings:
    uri = tracking_uri or f"sqlite:///{folder}/mlflow.db"
    return Settings(_env_file=None, data_dir=folder, mlflow_tracking_uri=uri)


@dataclass(frozen=True)
class Registered:
    settings: Settings
    model: OnnxModel


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    settings = settings_in(tmp_path_factory.mktemp("registry"))
    model = register(settings, candidate())
    set_alias(settings, model.version)
    return Registered(settings, model)


@pytest.fixture
def own(registered: Registered, tmp_path: Path) -> Registered:
    """A copy of the registry that a test may spoil."""
    folder = tmp_path / "data"
    shutil.copytree(registered.settings.data_dir, folder, ignore=shutil.ignore_patterns("models"))
    settings = settings_in(folder)
    before = registered.settings.data_dir
    _sql(settings, "UPDATE model_versions SET source = replace(source, ?, ?)", before, folder)
    _sql(settings, "UPDATE model_versions SET storage_location = source")
    _sql(settings, "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", before, folder)
    return Registered(settings, registered.model)


def _sql(settings: Settings, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(settings.data_dir / "mlflow.db")) as connection, connection:
        connection.execute(statement, [str(value) for value in values])


def file_of(settings: Settings) -> Path:
    return next((settings.data_dir / "artifacts").rglob("model.onnx"))


# --- a file


def test_a_file_loads_under_its_name_and_digest_and_satisfies_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(forest_file())
    model: Model = load(str(path), settings_in(tmp_path))
    assert (model.name, model.digest) == ("mine", sha256(path.read_bytes()))
    assert model.digest.startswith(model.version)
    explained = explain(model, ROWS)
    assert explained.baseline + explained.contributions.sum(axis=1) == pytest.approx(explained.probability)


@pytest.mark.parametrize(
    "changed",
    [
        {"feature_names": FEATURE_NAMES[::-1]},
        {"feature_names": (*FEATURE_NAMES[:-1], "shoe_size")},
        {"feature_set": FEATURE_SET + 1},
    ],
)
def test_a_model_for_other_features_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    (tmp_path / "m.onnx").write_bytes(forest_file(**changed))
    with pytest.raises(ModelRefusedError, match="made for other features"):
        load_model(tmp_path / "m.onnx")


def test_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(forest_file(features=5))
    with pytest.raises(ModelRefusedError, match="does not turn 9 features"):
        load_model(tmp_path / "m.onnx")


def test_a_model_without_a_card_is_refused(tmp_path: Path) -> None:
    import onnx

    proto = onnx.load_from_string(forest_file())
    del proto.metadata_props[:]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelRefusedError, match="no readable model card"):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x80\x04\x95pickle", forest_file()[:1000]])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelRefusedError):
        load_model(tmp_path / "m.onnx")


def test_a_missing_file_and_a_strange_uri_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(str(tmp_path / "none.onnx"), settings_in(tmp_path))
    with pytest.raises(ConfigurationError, match="is no model"):
        load("models:/readmission-risk", settings_in(tmp_path))


# --- the registry


def test_the_champion_is_what_was_registered(registered: Registered) -> None:
    model = load_champion(registered.settings)
    assert (model.name, model.version, model.digest) == ("readmission-risk", "1", sha256(candidate().onnx))
    assert np.array_equal(model.contributions(ROWS), registered.model.contributions(ROWS))
    assert load("models:/readmission-risk@champion", registered.settings).digest == model.digest
    assert champion_version(registered.settings) == "1"


def test_reading_mlflows_tables_gives_what_its_client_gives(registered: Registered) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(registered.settings.mlflow_tracking_uri)
    version = client.get_model_version_by_alias("readmission-risk", "champion")
    assert str(version.version) == champion_version(registered.settings)
    assert version.tags["digest"] == registered.model.digest
    folder = client.get_model_version_download_uri("readmission-risk", version.version)
    assert Path(folder.removeprefix("file://"), "model.onnx").read_bytes() == candidate().onnx


def test_data_scientists_can_load_the_model_with_mlflow_and_see_its_signature(registered: Registered) -> None:
    import mlflow

    mlflow.set_tracking_uri(registered.settings.mlflow_tracking_uri)
    info = mlflow.models.get_model_info("models:/readmission-risk@champion")
    assert tuple(info.signature.inputs.input_names()) == FEATURE_NAMES


def test_a_new_version_moves_the_champion_only_with_the_alias(own: Registered) -> None:
    second = register(own.settings, candidate(seed=2))
    assert champion_version(own.settings) == "1"
    set_alias(own.settings, second.version)
    assert champion_version(own.settings) == second.version == "2"
    assert load_champion(own.settings).digest == second.digest != own.model.digest


def test_registering_into_a_new_store_prints_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from connectors.models import register, set_alias;"
        "from tests.unit.connectors.test_models import candidate, settings_in;"
        "settings = settings_in(Path(sys.argv[1]));"
        "set_alias(settings, register(settings, candidate()).version)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert champion_version(settings_in(tmp_path)) == "1"


def test_loading_never_imports_mlflow(own: Registered) -> None:
    program = (
        "import sys; from pathlib import Path; from connectors.models import load_champion;"
        "from connectors.settings import Settings;"
        f"folder = Path({str(own.settings.data_dir)!r});"
        "load_champion(Settings(data_dir=folder, mlflow_tracking_uri=f'sqlite:///{folder}/mlflow.db'));"
        "sys.exit('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_a_champion_there_is_no_model(own: Registered, tmp_path: Path) -> None:
    with pytest.raises(NoModelError, match="alias challenger"):
        load("models:/readmission-risk@challenger", own.settings)
    with pytest.raises(NoModelError):
        load_champion(settings_in(tmp_path))
    assert champion_version(settings_in(tmp_path)) is None


def test_a_removed_alias_is_no_outage(own: Registered) -> None:
    load_champion(own.settings)
    _sql(own.settings, "DELETE FROM registered_model_aliases")
    with pytest.raises(NoModelError):
        load_champion(own.settings)


@pytest.mark.parametrize("position", [0, 200, -1])
def test_a_tampered_file_is_refused_and_not_kept(own: Registered, position: int) -> None:
    path = file_of(own.settings)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelRefusedError, match="not the one that was registered"):
        load_champion(own.settings)
    assert not (own.settings.data_dir / "models").exists()


@pytest.mark.parametrize("digest", ["../../etc/passwd", ""])
def test_a_version_without_a_proper_digest_is_refused(own: Registered, digest: str) -> None:
    _sql(own.settings, "UPDATE model_version_tags SET value = ?", digest)
    with pytest.raises(ModelRefusedError, match="without a digest"):
        load_champion(own.settings)


def test_a_spoilt_copy_is_fetched_again(own: Registered) -> None:
    load_champion(own.settings)
    copy = own.settings.data_dir / "models" / f"{own.model.digest}.onnx"
    copy.write_bytes(b"spoilt")
    assert load_champion(own.settings).digest == own.model.digest
    assert sha256(copy.read_bytes()) == own.model.digest


# --- the registry away


def _closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_the_last_good_model_serves_while_the_registry_is_away(own: Registered) -> None:
    load_champion(own.settings)
    away = settings_in(own.settings.data_dir, _closed_port())
    with pytest.raises(UnavailableError, match="does not answer"):
        champion_version(away)
    model = load_champion(away)
    assert (model.version, model.digest) == ("1", own.model.digest)
    assert own.model.registered_at is not None
    assert model.registered_at == own.model.registered_at


def test_the_last_good_model_serves_while_the_files_or_the_store_are_broken(own: Registered) -> None:
    load_champion(own.settings)
    second = register(own.settings, candidate(seed=2))
    set_alias(own.settings, second.version)
    shutil.rmtree(own.settings.data_dir / "artifacts")
    assert load_champion(own.settings).version == "1"
    (own.settings.data_dir / "mlflow.db").write_bytes(b"not a database, but longer than a header would have to be" * 9)
    assert load_champion(own.settings).version == "1"


def test_a_last_good_copy_that_was_tampered_with_is_not_used(own: Registered) -> None:
    load_champion(own.settings)
    (own.settings.data_dir / "models" / f"{own.model.digest}.onnx").write_bytes(forest_file(seed=9))
    with pytest.raises(UnavailableError, match="No earlier copy"):
        load_champion(settings_in(own.settings.data_dir, _closed_port()))


def test_an_outage_without_an_earlier_copy_is_said_in_one_sentence_without_secrets(tmp_path: Path) -> None:
    away = settings_in(tmp_path, _closed_port().replace("http://", "http://user:secret@"))
    with pytest.raises(UnavailableError, match="No earlier copy") as caught:
        load_champion(away)
    assert "secret" not in str(caught.value)


def test_an_address_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI"):
        champion_version(settings_in(tmp_path, "ftp://somewhere"))


# --- a server


@dataclass
class Server:
    """Answers as MLflow's REST interface does."""

    uri: str
    status: int
    body: dict[str, Any]


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            self.send_response(answers.status)
            self.end_headers()
            self.wfile.write(json.dumps(answers.body).encode())

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    answers = Server(f"http://127.0.0.1:{httpd.server_port}", 200, {})
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield answers
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_server_tells_the_champion_and_a_kept_file_needs_no_download(own: Registered, server: Server) -> None:
    load_champion(own.settings)
    tags = [{"key": "digest", "value": own.model.digest}]
    told = {"name": "readmission-risk", "version": "4", "tags": tags, "creation_timestamp": 1_700_000_000_500}
    server.body = {"model_version": told}
    remote = settings_in(own.settings.data_dir, server.uri)
    assert champion_version(remote) == "4"
    model = load_champion(remote)
    assert (model.version, model.digest, model.registered_at) == ("4", own.model.digest, 1_700_000_000.5)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "Registered Model with name=readmission-risk not found"),
        (400, "Registered model alias champion not found."),
    ],
)
def test_a_server_that_knows_no_champion_is_not_away(tmp_path: Path, server: Server, status: int, message: str) -> None:
    server.status, server.body = status, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message}
    with pytest.raises(NoModelError):
        load_champion(settings_in(tmp_path, server.uri))


@pytest.mark.parametrize(("status", "body"), [(500, {"message": "oops"}), (403, {}), (200, {"unexpected": 1})])
def test_a_server_in_trouble_counts_as_away(tmp_path: Path, server: Server, status: int, body: dict[str, Any]) -> None:
    server.status, server.body = status, body
    with pytest.raises(UnavailableError):
        champion_version(settings_in(tmp_path, server.uri))
