"""A federated training by the command line, on real topics: each site is a process that knows of one institution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka import OutMessage, Publisher
from connectors.models import load_champion
from connectors.registry import Registry, to_wire
from connectors.settings import Settings
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import run
from tests.unit.model_training.stays import simulated

pytestmark = pytest.mark.stack

ALIAS = "federated"
RECORDS = {"dkfz": simulated(1, 3000, "dkfz"), "ukhd": simulated(2, 2000, "ukhd")}


@pytest.fixture(scope="module")
def settings(stack: Settings) -> Iterator[Settings]:
    """Fill two feature topics with more stays than a simulated history has, and empty them of these again."""
    schema_ids, publisher = Registry(stack.schema_registry_url).register_all(), Publisher(stack)
    topics = {institution: topic_name(TopicFamily.FEATURES, institution) for institution in RECORDS}
    keys = [(topics[id_], one.encounter_pseudonym.encode(), one) for id_, records in RECORDS.items() for one in records]
    publisher.publish(OutMessage(topic, key, to_wire(schema_ids[topic], one)) for topic, key, one in keys)
    yield stack.model_copy(update={"train_search_budget_s": 0.0, "model_alias": ALIAS})
    publisher.publish(OutMessage(topic, key, None) for topic, key, _ in keys)


def test_one_machine_runs_every_site_and_compares_with_pooled(settings: Settings) -> None:
    ended = run(settings, "train", "--federated", "--pooled", "--json")
    assert ended.code == 0, ended.stderr
    rows = ended.document["measured"]
    # The third hospital has too few stays, says so and takes no part.
    assert "not enough stays" in ended.stderr
    assert {(row["forest"], row["institution"]) for row in rows} == {
        (forest, place) for forest in ("alone", "federated", "pooled") for place in ("dkfz", "ukhd", "all")
    }
    auroc = {row["forest"]: row["auroc"] for row in rows if row["institution"] == "all"}
    assert auroc["federated"] > auroc["pooled"] - 0.02
    model = load_champion(settings)
    assert (model.version, model.digest) == (ended.document["version"], ended.document["digest"])


def test_two_sites_and_a_coordinator_do_the_same_by_handing_files_over(settings: Settings, tmp_path: Path) -> None:
    def site(institution: str, name: str, *arguments: object) -> Path:
        own = settings.model_copy(update={"data_dir": tmp_path / institution})
        command = ("federated", "site", "--institution", institution, "--out", tmp_path / name, "--json", *arguments)
        # A site has no use for the database, the registry of models or the secret.
        ended = run(own, *command, DATABASE_URL="", MLFLOW_TRACKING_URI="", PSEUDONYM_KEY="")
        assert ended.code == 0, ended.stderr
        assert ended.document["bytes"] == (tmp_path / name).stat().st_size
        return tmp_path / name

    forests = [site(institution, f"{institution}.forest.json") for institution in ("dkfz", "ukhd")]
    snapshots = {json.loads(file.read_bytes())["snapshot"] for file in forests}
    assert len(snapshots) == 2
    merged = tmp_path / "merged.json"
    assert run(settings, "federated", "merge", *forests, "--out", merged).code == 0
    scores = [site(one, f"{one}.scores.json", "--merged", merged) for one in ("dkfz", "ukhd")]
    ended = run(settings, "federated", "register", *scores, "--merged", merged)
    assert ended.code == 0, ended.stderr
    assert "federated" in ended.stdout
    assert "alone" in ended.stdout
    refused = run(settings, "federated", "register", scores[0], "--merged", merged)
    assert (refused.code, refused.stdout) == (3, "")
    assert "dkfz, ukhd" in refused.stderr
