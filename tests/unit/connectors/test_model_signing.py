"""Only what the trainer's key has signed is used, whatever else is put into the registry; nothing is ever unpickled."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors.models import (
    OnnxModel,
    load_champion,
    load_last_good,
    load_registered,
    register,
    set_alias,
    sha256,
)
from connectors.models.signing import new_key_pair, require_signature, signature
from connectors.models.versions import load_found, roll_back, sign_version
from connectors.settings import Settings
from schemas.errors import ConfigurationError, ModelRefusedError
from tests.unit.connectors.test_models import _sql, candidate, file_of, settings_in

SIGNING, PUBLIC = new_key_pair()
OTHER_SIGNING, OTHER_PUBLIC = new_key_pair()


def trainer(folder: Path, signing: str = SIGNING) -> Settings:
    """Return the settings of who trains."""
    return settings_in(folder).model_copy(update={"model_signing_key": SecretStr(signing)})


def worker(folder: Path, public: str = PUBLIC) -> Settings:
    """Return the settings of who scores: of the key's public half alone."""
    return settings_in(folder).model_copy(update={"model_public_keys": public})


def registered(folder: Path, signing: str = SIGNING, seed: int = 1) -> OnnxModel:
    settings = trainer(folder, signing)
    model = register(settings, candidate(seed))
    set_alias(settings, model.version)
    return model


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.marker,)


def refused(load: Callable[[], object], reason: str) -> None:
    with pytest.raises(ModelRefusedError) as told:
        load()
    assert told.value.reason == reason


def test_what_the_trainer_registers_is_used_by_whoever_knows_its_public_key(tmp_path: Path) -> None:
    model = registered(tmp_path)
    for public in (PUBLIC, f"{OTHER_PUBLIC}, {PUBLIC}", ""):
        assert load_registered(worker(tmp_path, public)).digest == model.digest
        assert load_found(worker(tmp_path, public), model.version).digest == model.digest


def test_what_is_not_signed_is_refused_until_it_is(tmp_path: Path) -> None:
    model = registered(tmp_path, "")
    refused(lambda: load_registered(worker(tmp_path)), "unsigned")
    refused(lambda: load_found(worker(tmp_path), model.version), "unsigned")
    with pytest.raises(ConfigurationError, match="MODEL_SIGNING_KEY"):
        sign_version(worker(tmp_path), model.version)
    assert sign_version(trainer(tmp_path), model.version) == model.digest
    assert load_registered(worker(tmp_path)).version == model.version


def test_what_another_key_has_signed_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, OTHER_SIGNING)
    refused(lambda: load_registered(worker(tmp_path)), "signed-by")


def test_a_signature_is_of_one_file_under_one_name(tmp_path: Path) -> None:
    settings = trainer(tmp_path)
    given = signature(settings, "a" * 64)
    assert given is not None
    require_signature(worker(tmp_path), "1", "a" * 64, given)
    refused(lambda: require_signature(worker(tmp_path), "1", "b" * 64, given), "signed-by")
    other = worker(tmp_path).model_copy(update={"model_name": "another"})
    refused(lambda: require_signature(other, "1", "a" * 64, given), "signed-by")
    for broken in (given[:-4], given.lower(), "%", "AAAA"):
        refused(lambda broken=broken: require_signature(worker(tmp_path), "1", "a" * 64, broken), "signed-by")  # type: ignore[misc]


@pytest.mark.parametrize(
    "key", ["x", "AAAA", PUBLIC[:-2], f"{PUBLIC},"], ids=["a letter", "too short", "cut", "a comma"]
)
def test_what_is_no_key_is_a_wrong_setting(tmp_path: Path, key: str) -> None:
    registered(tmp_path, OTHER_SIGNING)
    with pytest.raises(ConfigurationError, match="MODEL_PUBLIC_KEYS"):
        load_registered(worker(tmp_path, key))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have a registry with one signed champion."""
    folder = tmp_path_factory.mktemp("registry")
    registered(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the registry that a test may spoil."""
    folder = tmp_path / "data"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("models"))
    _sql(settings_in(folder), "UPDATE model_versions SET source = replace(source, ?, ?)", whole, folder)
    _sql(settings_in(folder), "UPDATE model_versions SET storage_location = source")
    return folder


@pytest.mark.parametrize("keys", ["", PUBLIC], ids=["unsigned", "signed"])
@pytest.mark.parametrize("tags", ["left", "changed"])
@pytest.mark.parametrize("what", ["pickle", "one byte", "another forest"])
def test_a_file_that_was_put_in_its_place_is_refused_and_never_run(copy: Path, what: str, tags: str, keys: str) -> None:
    """`tags`: whether who changed the file gave the version its digest too, which he can; he cannot sign it."""
    tmp_path, marker = copy, copy / "marker"
    good = load_champion(worker(tmp_path, keys))
    path = file_of(settings_in(tmp_path))
    if what == "pickle":
        path.write_bytes(pickle.dumps(Malicious(marker)))
    elif what == "one byte":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    else:
        path.write_bytes(candidate(2).onnx)
    if tags == "changed":
        digest = sha256(path.read_bytes())
        _sql(settings_in(tmp_path), "UPDATE model_version_tags SET value = ? WHERE key = 'digest'", digest)
    fresh = tmp_path / "cache of another machine"
    loads: list[Callable[[], object]] = [
        lambda: load_registered(worker(tmp_path, keys), fresh),
        lambda: load_found(worker(tmp_path, keys), good.version),
    ]
    for load in loads:
        if what != "pickle" and tags == "changed" and not keys:
            continue  # with digests alone it cannot be told; a byte of a number is a model like another
        with pytest.raises(ModelRefusedError) as told:
            load()
        expected = "digest" if tags == "left" else "signed-by" if keys else "unreadable"
        assert told.value.reason == expected
    assert not marker.exists()
    assert load_last_good(worker(tmp_path, keys)).digest == good.digest


def test_the_last_good_model_is_held_to_the_signature_too(tmp_path: Path) -> None:
    registered(tmp_path, "")
    load_champion(worker(tmp_path, ""))
    refused(lambda: load_last_good(worker(tmp_path)), "unsigned")
    kept = next((tmp_path / "models").glob("*@champion.json"))
    kept.write_bytes(kept.read_bytes().replace(b'"signature":""', b'"signature":"AAAA"'))
    refused(lambda: load_last_good(worker(tmp_path)), "signed-by")


def test_nobody_goes_back_to_what_is_not_signed(tmp_path: Path) -> None:
    registered(tmp_path, "")
    settings = worker(tmp_path)
    second = register(trainer(tmp_path), candidate(2))
    _sql(settings, "INSERT INTO registered_model_tags (key, value, name) VALUES ('former_champions', '1', ?)",
         settings.model_name)  # fmt: skip
    set_alias(settings, second.version)
    refused(lambda: roll_back(settings), "unsigned")
    assert load_registered(settings).version == second.version
