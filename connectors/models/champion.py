"""Find the version that scores, fetch and check it, and keep the last good one at hand.

MLflow is never imported here: its client costs a process 1.6 s and 160 MB, with a SQLite store 2.3 s and 220 MB.
A worker asks a server's REST interface or reads the SQLite store itself, and fetches remote files by a child process.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx2
import msgspec

from connectors.models.mlflow_quietly import QUIET
from connectors.models.onnx_file import OnnxModel, from_bytes, load_model, sha256
from connectors.models.signing import SIGNATURE_TAG, require_signature
from connectors.settings import Settings
from schemas.errors import ConfigurationError, ModelRefusedError, NoModelError, UnavailableError

FILE_NAME = "model.onnx"
DIGEST_TAG = "digest"

_TIMEOUT_S = 5.0
_DOWNLOAD_TIMEOUT_S = 120.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_URI = re.compile(r"models:/(?P<name>[^/@]+)@(?P<alias>[^/@]+)")

_DOWNLOAD = """
import sys
from mlflow.artifacts import download_artifacts
download_artifacts(artifact_uri=sys.argv[1], dst_path=sys.argv[2])
"""

# MLflow's own tables; a test holds them against MLflow's client.
_BY_ALIAS = """
SELECT version.version, digest.value, signature.value, coalesce(version.storage_location, version.source),
       version.creation_time
FROM registered_model_aliases AS alias
JOIN model_versions AS version ON version.name = alias.name AND version.version = alias.version
LEFT JOIN model_version_tags AS digest
       ON digest.name = version.name AND digest.version = version.version AND digest.key = ?
LEFT JOIN model_version_tags AS signature
       ON signature.name = version.name AND signature.version = version.version AND signature.key = ?
WHERE alias.name = ? AND alias.alias = ?
"""


@dataclass(frozen=True, slots=True)
class _Registered:
    """A version as the registry knows it; `location` is the folder of its file, None where only a server knows.

    registered_at: Unix time, s.
    """

    version: str
    digest: str
    signature: str
    location: str | None
    registered_at: float | None = None


class _LastGood(msgspec.Struct, frozen=True):
    version: str
    digest: str
    registered_at: float | None = None
    signature: str = ""


def load(uri_or_path: str, settings: Settings) -> OnnxModel:
    """Load `models:/<name>@<alias>` or a model file; raise as `load_champion` and `load_model` do."""
    if not uri_or_path.startswith("models:"):
        return load_model(Path(uri_or_path))
    match = _URI.fullmatch(uri_or_path)
    if match is None:
        raise ConfigurationError(f"{uri_or_path} is no model: give models:/<name>@<alias> or a file.")
    names = {"model_name": match["name"], "model_alias": match["alias"]}
    return load_champion(settings.model_copy(update=names))


def champion_version(settings: Settings) -> str | None:
    """Return the version that should score, None while there is none; one small query, fit for frequent polling.

    Raises UnavailableError where the registry does not answer.
    """
    found = _find(settings)
    return found.version if found else None


def load_champion(settings: Settings, cache_dir: Path | None = None) -> OnnxModel:
    """Load the version that has the alias; where the registry is away, the last one that was loaded here.

    Files are kept under `cache_dir`, by default `<data_dir>/models`, by their digest. Raises NoModelError where
    nothing has the alias, ModelRefusedError for a file that is not the registered one, not signed as is asked for
    (`connectors.models.signing`) or not made for this code, UnavailableError where the registry is away and nothing
    was kept.
    """
    try:
        return load_registered(settings, cache_dir)
    except UnavailableError as error:
        return _kept(settings, cache_dir).last_good(settings, error)


def load_registered(settings: Settings, cache_dir: Path | None = None) -> OnnxModel:
    """Load the version that has the alias, as `load_champion` does; UnavailableError where the registry is away."""
    kept = _kept(settings, cache_dir)
    found = _find(settings)
    if found is None:
        raise NoModelError(f"No version of {settings.model_name} has the alias {settings.model_alias} yet.")
    _require_vouched(settings, found)
    data = kept.file(found.digest) or _fetch(settings, found)
    model = from_bytes(
        data,
        name=settings.model_name,
        version=found.version,
        digest=found.digest,
        registered_at=found.registered_at,
    )
    kept.keep(model, data, found.signature)
    return model


def load_version(settings: Settings, version: str, digest: str, signature: str, location: str | None) -> OnnxModel:
    """Load a registered version as a worker would, but keep no copy; `location`: its file's folder, if that is local.

    Raises ModelRefusedError for a file that is not the registered one, not signed as is asked for or not made for this
    code, UnavailableError where it cannot be read.
    """
    found = _Registered(version, digest, signature, location)
    _require_vouched(settings, found)
    return from_bytes(_fetch(settings, found), name=settings.model_name, version=version, digest=digest)


def _require_vouched(settings: Settings, found: _Registered) -> None:
    if not _DIGEST.fullmatch(found.digest):
        raise ModelRefusedError(
            f"{settings.model_name} version {found.version} was registered without a digest.", reason="digest"
        )
    require_signature(settings, found.version, found.digest, found.signature)


def load_last_good(settings: Settings, cache_dir: Path | None = None) -> OnnxModel:
    """Load the last version of the alias that was loaded here; raise UnavailableError where there is none."""
    return _kept(settings, cache_dir).last_good(settings, UnavailableError("There is no model to go on with."))


def _kept(settings: Settings, cache_dir: Path | None) -> _Kept:
    return _Kept(cache_dir or settings.data_dir / "models", settings.model_name, settings.model_alias)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The copies of loaded models on this machine."""

    folder: Path
    name: str
    alias: str

    def file(self, digest: str) -> bytes | None:
        """Return the file with this digest if it is here and whole."""
        try:
            data = (self.folder / f"{digest}.onnx").read_bytes()
        except OSError:
            return None
        return data if sha256(data) == digest else None

    def keep(self, model: OnnxModel, data: bytes, signature: str) -> None:
        """Keep a model's file and remember it as the last good one of this alias."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.file(model.digest) is None:
                _replace(self.folder / f"{model.digest}.onnx", data)
            _replace(
                self._note, msgspec.json.encode(_LastGood(model.version, model.digest, model.registered_at, signature))
            )
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR: {self.folder} cannot be written: {error.strerror}.") from None

    def last_good(self, settings: Settings, why: UnavailableError) -> OnnxModel:
        """Load the last good model; raise UnavailableError from `why` where there is none.

        Raises ModelRefusedError where it was kept without the signature that is asked for now.
        """
        try:
            last = msgspec.json.decode(self._note.read_bytes(), type=_LastGood)
            data = self.file(last.digest) if _DIGEST.fullmatch(last.digest) else None
        except (OSError, msgspec.DecodeError):
            data = None
        if data is None:
            raise UnavailableError(f"{why} No earlier copy of {self.name}@{self.alias} is in {self.folder}.") from why
        require_signature(settings, last.version, last.digest, last.signature)
        return from_bytes(
            data, name=self.name, version=last.version, digest=last.digest, registered_at=last.registered_at
        )

    @property
    def _note(self) -> Path:
        return self.folder / f"{quote(self.name, safe='')}@{quote(self.alias, safe='')}.json"


def _replace(path: Path, data: bytes) -> None:
    """Replace a file at once, so that no other process reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def sqlite_path(tracking_uri: str) -> Path:
    """Return a SQLite store's file.

    >>> sqlite_path("sqlite:////data/mlflow.db")
    PosixPath('/data/mlflow.db')
    """
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])


def _find(settings: Settings) -> _Registered | None:
    uri = settings.mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        return _find_in_sqlite(sqlite_path(uri), settings)
    if uri.startswith(("http://", "https://")):
        return _find_on_server(uri, settings)
    raise ConfigurationError("MLFLOW_TRACKING_URI must begin with sqlite:///, http:// or https://.")


def _find_in_sqlite(path: Path, settings: Settings) -> _Registered | None:
    if not path.exists():
        return None
    names = DIGEST_TAG, SIGNATURE_TAG, settings.model_name, settings.model_alias
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)
        try:
            row = connection.execute(_BY_ALIAS, names).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UnavailableError("The model registry at MLFLOW_TRACKING_URI cannot be read.") from error
    return _Registered(str(row[0]), row[1] or "", row[2] or "", row[3], row[4] / 1000) if row else None


def _find_on_server(uri: str, settings: Settings) -> _Registered | None:
    """Ask https://mlflow.org/docs/latest/rest-api.html#get-model-version-by-alias."""
    try:
        answer = httpx2.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias",
            params={"name": settings.model_name, "alias": settings.model_alias},
            timeout=_TIMEOUT_S,
        )
        body = answer.json()
        if answer.status_code in (400, 404) and "not found" in body["message"]:
            return None  # 404 for an unknown model, 400 for an unknown alias
        answer.raise_for_status()
        found = body["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", ())}
        return _Registered(
            str(found["version"]),
            tags.get(DIGEST_TAG, ""),
            tags.get(SIGNATURE_TAG, ""),
            None,
            int(found["creation_timestamp"]) / 1000,
        )
    except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError("The model registry at MLFLOW_TRACKING_URI does not answer.") from error


def _fetch(settings: Settings, found: _Registered) -> bytes:
    location = urlsplit(found.location or "models:")
    if location.scheme not in ("", "file"):
        return _download(settings, found.version)
    try:
        return (Path(unquote(location.path)) / FILE_NAME).read_bytes()
    except OSError as error:
        raise UnavailableError(f"The file of {settings.model_name} version {found.version} cannot be read.") from error


def _download(settings: Settings, version: str) -> bytes:
    # The address goes by the environment: it may hold a password, and arguments are for all to see.
    environment = {**os.environ, **QUIET, "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-c", _DOWNLOAD, f"models:/{settings.model_name}/{version}", folder]
        try:
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=_DOWNLOAD_TIMEOUT_S)
            return next(Path(folder).rglob(FILE_NAME)).read_bytes()
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            raise UnavailableError(f"{settings.model_name} version {version} could not be downloaded.") from error
