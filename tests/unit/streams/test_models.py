"""Keeping up with an alias: swaps, refusals told once, and the old model that goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.models import register, set_alias, sha256
from connectors.settings import Settings
from schemas.errors import ModelRefusedError
from streams import metrics
from streams.models import ModelWatch
from tests.unit.connectors.test_models import _closed_port, _sql, candidate, forest_file, settings_in


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("registry"))
    for seed in (1, 2):
        register(settings, candidate(seed))
    set_alias(settings, "1")
    return settings


@pytest.fixture
def settings(two_versions: Settings, tmp_path: Path) -> Settings:
    """A copy of the registry that a test may change: version 1 is the champion, version 2 is there."""
    folder, before = tmp_path / "data", two_versions.data_dir
    shutil.copytree(before, folder, ignore=shutil.ignore_patterns("models"))
    own = settings_in(folder)
    _sql(own, "UPDATE model_versions SET source = replace(source, ?, ?)", before, folder)
    _sql(own, "UPDATE model_versions SET storage_location = source")
    return own


def point(settings: Settings, alias: str, version: str) -> None:
    """Move an alias as MLflow does, without loading MLflow."""
    _sql(settings, "DELETE FROM registered_model_aliases WHERE alias = ?", alias)
    _sql(settings, "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
         settings.model_name, alias, version)  # fmt: skip


def file_of(settings: Settings, seed: int) -> Path:
    wanted = candidate(seed).onnx
    return next(one for one in (settings.data_dir / "artifacts").rglob("model.onnx") if one.read_bytes() == wanted)


async def champion(settings: Settings) -> ModelWatch:
    watch = ModelWatch(settings, "champion")
    await watch.first()
    assert watch.model is not None
    assert watch.model.version == "1"
    return watch


def version(watch: ModelWatch) -> str | None:
    return watch.model.version if watch.model else None


async def test_a_moved_alias_swaps_the_model_once_and_one_that_stays_does_not(settings: Settings) -> None:
    watch = await champion(settings)
    assert not await watch.look()
    point(settings, "champion", "2")
    assert await watch.look()
    assert version(watch) == "2"
    assert not await watch.look()


def tampered(settings: Settings) -> None:
    file_of(settings, 2).write_bytes(b"tampered with")


def of_another_signature(settings: Settings) -> None:
    data = forest_file(features=5)
    file_of(settings, 2).write_bytes(data)
    _sql(settings, "UPDATE model_version_tags SET value = ? WHERE version = 2", sha256(data))


def of_other_features(settings: Settings) -> None:
    data = forest_file(feature_set=99)
    file_of(settings, 2).write_bytes(data)
    _sql(settings, "UPDATE model_version_tags SET value = ? WHERE version = 2", sha256(data))


def without_a_digest(settings: Settings) -> None:
    _sql(settings, "DELETE FROM model_version_tags WHERE version = 2")


def without_its_file(settings: Settings) -> None:
    file_of(settings, 2).unlink()


def registry_broken(settings: Settings) -> None:
    (settings.data_dir / "mlflow.db").write_bytes(b"not a database, but longer than a header would have to be" * 9)


REFUSED: dict[str, tuple[Callable[[Settings], None], str]] = {
    "a tampered file": (tampered, "digest"),
    "another signature": (of_another_signature, "signature"),
    "other features": (of_other_features, "features"),
    "no digest": (without_a_digest, "digest"),
    "no file": (without_its_file, "unreachable"),
    "a broken registry": (registry_broken, "unreachable"),
}


def refusals(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("healthalliance_model_refusals_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_used_is_told_once_counted_each_time_and_the_old_model_goes_on(
    settings: Settings, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, reason = REFUSED[case]
    watch = await champion(settings)
    old, before = watch.model, refusals(reason)
    point(settings, "champion", "2")
    spoil(settings)
    assert [await watch.look() for _ in range(3)] == [False] * 3
    assert watch.model is old
    assert refusals(reason) == before + 3
    [line] = caplog.messages
    assert line.startswith("No new champion: ")
    assert line.endswith(" Version in use: 1.")


async def test_an_unreachable_registry_is_told_once_and_its_return_too(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    watch = await champion(settings)
    reachable, watch._settings = watch._settings, settings_in(settings.data_dir, _closed_port())
    assert [await watch.look(), await watch.look(), watch.is_unreachable] == [False, False, True]
    watch._settings = reachable
    assert [await watch.look(), watch.is_unreachable] == [False, False]
    told, back = caplog.messages
    assert "does not answer" in told
    assert back == "The model registry gives models again."


async def test_a_version_that_is_refused_again_after_another_one_served_is_told_again(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    watch = await champion(settings)
    point(settings, "champion", "2")
    tampered(settings)
    await watch.look()
    point(settings, "champion", "1")
    await watch.look()
    point(settings, "champion", "2")
    await watch.look()
    assert len(caplog.messages) == 2
    assert version(watch) == "1"


async def test_a_worker_that_starts_on_a_refused_champion_takes_the_last_good_one(settings: Settings) -> None:
    await champion(settings)
    point(settings, "champion", "2")
    tampered(settings)
    again = ModelWatch(settings, "champion")
    await again.first()
    assert version(again) == "1"
    shutil.rmtree(settings.data_dir / "models")
    with pytest.raises(ModelRefusedError, match="not the one that was registered"):
        await ModelWatch(settings, "champion").first()


async def test_a_challenger_comes_and_goes_with_its_alias_and_a_champion_stays(settings: Settings) -> None:
    challenger, watch = ModelWatch(settings, "challenger", may_be_absent=True), await champion(settings)
    assert not await challenger.look()
    point(settings, "challenger", "2")
    assert await challenger.look()
    assert version(challenger) == "2"
    _sql(settings, "DELETE FROM registered_model_aliases")
    assert await challenger.look()
    assert challenger.model is None
    assert not await watch.look()
    assert version(watch) == "1"
