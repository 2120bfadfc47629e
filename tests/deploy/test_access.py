"""Topics and access rules, as Terraform itself reckons them out, agree with what the programs say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from connectors.settings import Settings
from schemas.access import RANGES_GROUP, rules, users
from schemas.institutions import institutions
from schemas.topics import TOPIC_SPECS, TopicFamily, topic_name, topic_names
from tests.contract.source_code import ROOT
from tests.deploy.terraform_files import blocks, evaluate, evaluated, needs_terraform

pytestmark = needs_terraform
WHERE = "schemas/institutions.yaml and schemas/topics.py say one thing, terraform/access.tf another"
EXPRESSIONS = {
    "topics": "local.topics",
    "institutions": "keys(local.institutions)",
    "users": "local.kafka_users",
    "rules": "local.access_rules",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluated(tmp_path_factory.mktemp("access"), EXPRESSIONS)


def rights(said: dict[str, Any], user: str) -> set[tuple[str, str, str]]:
    return {(one["operation"], one["type"], one["name"]) for one in said["rules"].values() if one["user"] == user}


def on(operation: str, topics: list[str]) -> set[tuple[str, str, str]]:
    return {(operation, "Topic", topic) for topic in topics}


def test_terraform_makes_the_topics_that_the_programs_use_with_their_configuration(said: dict[str, Any]) -> None:
    expected = {topic_name(family, id_): spec.config for family, spec in TOPIC_SPECS.items() for id_ in institutions()}
    assert {name: topic["config"] for name, topic in said["topics"].items()} == expected, WHERE
    assert set(said["institutions"]) == institutions().keys(), WHERE


@pytest.mark.parametrize("id_", institutions())
def test_an_institution_writes_its_encounters_and_reads_its_risks_and_rejections_and_no_more(
    said: dict[str, Any], id_: str
) -> None:
    read = [topic_name(family, id_) for family in (TopicFamily.RISK, TopicFamily.REJECTED)]
    expected = (
        on("Write", [topic_name(TopicFamily.ENCOUNTERS, id_)]) | on("Read", read) | {("Read", "Group", f"{id_}.")}
    )
    assert rights(said, f"institution-{id_}") == expected, WHERE


def test_a_worker_reads_encounters_and_writes_what_it_makes_of_them(said: dict[str, Any]) -> None:
    written = [name for family in TopicFamily if family != TopicFamily.ENCOUNTERS for name in topic_names(family)]
    group = Settings.model_fields["consumer_group"].default
    expected = on("Read", topic_names(TopicFamily.ENCOUNTERS)) | on("Write", written) | {("Read", "Group", group)}
    assert rights(said, "worker") == expected, WHERE


def test_a_trainer_reads_features_in_the_group_that_its_client_names(said: dict[str, Any]) -> None:
    expected = on("Read", topic_names(TopicFamily.FEATURES)) | {("Describe", "Group", RANGES_GROUP)}
    assert rights(said, "trainer") == expected, WHERE


def test_the_api_writes_encounters(said: dict[str, Any]) -> None:
    assert rights(said, "api") == on("Write", topic_names(TopicFamily.ENCOUNTERS)), WHERE


def test_terraform_has_the_rules_that_the_programs_declare_and_their_users(said: dict[str, Any]) -> None:
    declared = {(one.user, one.operation, one.resource, one.name, one.pattern) for one in rules()}
    found = [
        tuple(one[key] for key in ("user", "operation", "type", "name", "pattern")) for one in said["rules"].values()
    ]
    assert set(found) == declared, "schemas/access.py says one thing, terraform/access.tf another"
    assert len(found) == len(declared) == len(rules())
    assert sorted(said["users"]) == users(rules())


def test_only_names_of_groups_are_prefixes_and_no_prefix_begins_another_institutions(said: dict[str, Any]) -> None:
    prefixes = [one["name"] for one in said["rules"].values() if one["pattern"] == "Prefixed"]
    assert sorted(prefixes) == sorted(
        f"{begin}{id_}." for id_ in institutions() for begin in ("", "healthalliance-alerts.")
    )
    assert not [one for one in prefixes for other in prefixes if one != other and other.startswith(one)]


def test_the_resources_are_made_of_these_values() -> None:
    by_type = {block.type: block.body for block in blocks()}
    assert by_type["kafka_topic"]["for_each"] == "${var.kafka_reachable ? local.topics : {}}"
    assert by_type["kafka_acl"]["for_each"] == "${var.kafka_reachable ? local.access_rules : {}}"
    assert by_type["kafka_topic"]["replication_factor"] == 3


def test_an_institution_that_is_added_to_the_file_gets_its_user_and_one_without_topics_is_told(tmp_path: Path) -> None:
    schemas = tmp_path / "changed"
    shutil.copytree(ROOT / "schemas", schemas, ignore=shutil.ignore_patterns("__pycache__"))
    with (schemas / "institutions.yaml").open("a", encoding="utf-8") as file:
        file.write("  fourth:\n    name: A fourth hospital\n")
    said = evaluated(tmp_path / "work", EXPRESSIONS, schemas)
    assert "institution-fourth" in said["users"]
    with pytest.raises(AssertionError, match=r"schemas/institutions\.yaml .* terraform/access\.tf"):
        test_terraform_makes_the_topics_that_the_programs_use_with_their_configuration(said)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("account_id=12", "twelve digits"),
        ("region=us-east-1", "eu-central"),
        ("size=huge", "small, medium or large"),
        ('api_public_cidrs=["0.0.0.0/0"]', "not the whole internet"),
        ('institution_cidrs={elsewhere=["10.0.0.0/24"]}', "schemas/institutions.yaml does not have"),
        ('institution_cidrs={dkfz=["10.0.0.0/0"]}', "not the whole internet"),
        ("backup_days=1", "7 to 35"),
        ('tags={Data="none"}', "project's own"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, given: str, word: str) -> None:
    done = evaluate(tmp_path, {"one": "1"}, [given])
    assert done.returncode != 0
    assert word in " ".join(done.stderr.replace("│", " ").split())
