"""Which version scores, and which did before."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.models import champion_version, register, set_alias
from connectors.models.versions import (
    CHALLENGER,
    Moved,
    find_version,
    load_found,
    make_champion,
    roll_back,
    snapshot_ends,
    versions,
)
from connectors.partition_ends import PartitionEnd
from connectors.settings import Settings
from schemas.errors import ModelRefusedError, NoModelError
from tests.unit.connectors.test_models import _sql, candidate, settings_in


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Have a registry with three versions of which none scores."""
    settings = settings_in(tmp_path_factory.mktemp("versions"))
    for seed in (1, 2, 3):
        register(settings, candidate(seed))
    return settings


@pytest.fixture(autouse=True)
def nobody_scores(settings: Settings) -> None:
    _sql(settings, "DELETE FROM registered_model_aliases")
    _sql(settings, "DELETE FROM registered_model_tags")


def test_versions_are_listed_from_the_newest_with_what_is_known_of_them(settings: Settings) -> None:
    make_champion(settings, "2")
    found = versions(settings)
    assert [(one.version, one.aliases) for one in found] == [("3", ()), ("2", ("champion",)), ("1", ())]
    assert found[0].metrics == {"auroc": 0.7}
    assert found[0].parameters == {"n_estimators": "5"}
    assert found[0].digest == load_found(settings, "3").digest


def test_where_nothing_is_registered_nothing_is_listed(tmp_path: Path) -> None:
    assert versions(settings_in(tmp_path)) == []


def test_a_version_is_found_by_number_or_alias(settings: Settings) -> None:
    make_champion(settings, "2")
    assert find_version(settings, "champion") == find_version(settings, "2")
    with pytest.raises(NoModelError, match="no version or alias 9"):
        find_version(settings, "9")


def test_a_version_tells_how_far_its_snapshot_was_read(settings: Settings) -> None:
    assert snapshot_ends(settings, "1") == (PartitionEnd("features.dkfz", "id", 0, 7),)


def test_rollbacks_go_back_one_champion_at_a_time_to_the_first(settings: Settings) -> None:
    moves = [make_champion(settings, version) for version in ("1", "3", "2")]
    assert moves == [Moved(None, "1"), Moved("1", "3"), Moved("3", "2")]
    assert roll_back(settings) == Moved("2", "3")
    assert roll_back(settings) == Moved("3", "1")
    assert champion_version(settings) == "1"
    with pytest.raises(NoModelError, match="no earlier champion"):
        roll_back(settings)
    assert champion_version(settings) == "1"


def test_promoting_who_scores_already_changes_nothing(settings: Settings) -> None:
    make_champion(settings, "1")
    make_champion(settings, "2")
    assert make_champion(settings, "2") == Moved("2", "2")
    assert roll_back(settings) == Moved("2", "1")


def test_a_champion_that_was_set_by_hand_is_gone_back_to(settings: Settings) -> None:
    set_alias(settings, "1")
    make_champion(settings, "2")
    assert roll_back(settings) == Moved("2", "1")


def test_the_version_that_scores_is_not_gone_back_to(settings: Settings) -> None:
    make_champion(settings, "3")
    make_champion(settings, "1")
    make_champion(settings, "2")
    set_alias(settings, "1")  # by hand, so that the note of former champions names it still
    assert roll_back(settings) == Moved("1", "3")


def test_a_challenger_that_becomes_champion_is_no_challenger_any_more(settings: Settings) -> None:
    set_alias(settings, "1", CHALLENGER)
    set_alias(settings, "2", "champion")
    make_champion(settings, "1")
    assert find_version(settings, "champion").aliases == ("champion",)


def test_another_alias_that_workers_score_with_has_its_own_holder(settings: Settings) -> None:
    other = settings.model_copy(update={"model_alias": "production"})
    assert make_champion(other, "1") == Moved(None, "1")
    assert find_version(settings, "1").aliases == ("production",)


def test_a_challenger_setting_moves_the_champion_never_the_challenger(settings: Settings) -> None:
    make_champion(settings.model_copy(update={"model_alias": CHALLENGER}), "3")
    assert find_version(settings, "3").aliases == ("champion",)


def test_nobody_goes_back_to_a_file_that_was_tampered_with(tmp_path: Path) -> None:
    own = settings_in(tmp_path)
    register(own, candidate(1))
    make_champion(own, "1")
    [path] = (tmp_path / "artifacts").rglob("model.onnx")
    path.write_bytes(path.read_bytes() + b" ")
    register(own, candidate(2))
    make_champion(own, "2")
    with pytest.raises(ModelRefusedError, match="not the one that was registered"):
        roll_back(own)
    assert champion_version(own) == "2"
