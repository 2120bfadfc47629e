"""The topics: one of each family for every institution, with the policies of the design, named in one place."""

from __future__ import annotations

import ast
import json
import re
from itertools import pairwise, product
from pathlib import Path

import pytest

from connectors.kafka import encounter_topics
from connectors.settings import Settings
from schemas import topics
from schemas.errors import ConfigurationError
from schemas.institutions import institutions
from schemas.topics import TOPIC_SPECS, TopicFamily, institution_of, topic_name, topic_names
from tests.contract.source_code import Module, module, product_modules

DAYS_30_MS = "2592000000"
POLICIES = {
    TopicFamily.ENCOUNTERS: ("patient reference", None, "delete", DAYS_30_MS),
    TopicFamily.RISK: ("patient reference", "RiskScore", "compact,delete", DAYS_30_MS),
    TopicFamily.FEATURES: ("encounter pseudonym", "EncounterFeatures", "compact", "-1"),
    TopicFamily.REJECTED: ("original key", None, "delete", DAYS_30_MS),
}


@pytest.mark.parametrize("family", TopicFamily)
def test_each_family_has_the_designs_key_record_cleanup_and_retention(family: TopicFamily) -> None:
    spec = TOPIC_SPECS[family]
    found = (spec.key, spec.record, spec.config["cleanup.policy"], spec.config["retention.ms"])
    assert (spec.family, found) == (family, POLICIES[family])


@pytest.mark.parametrize("family", [TopicFamily.ENCOUNTERS, TopicFamily.REJECTED])
def test_the_largest_event_with_its_headers_fits_where_events_are_kept(family: TopicFamily) -> None:
    # An OperationOutcome in the headers may quote the event once more.
    assert int(TOPIC_SPECS[family].config["max.message.bytes"]) > 2 * Settings.model_fields["event_max_bytes"].default


def test_the_broker_stamps_arrival_where_months_and_latencies_are_taken_from_it() -> None:
    stamped = {family for family, spec in TOPIC_SPECS.items() if "message.timestamp.type" in spec.config}
    assert stamped == {TopicFamily.ENCOUNTERS}
    assert TOPIC_SPECS[TopicFamily.ENCOUNTERS].config["message.timestamp.type"] == "LogAppendTime"


def test_every_institution_has_one_topic_of_each_family() -> None:
    expected = {f"{family.value}.{id_}" for family, id_ in product(TopicFamily, institutions())}
    assert {name for family in TOPIC_SPECS for name in topic_names(family)} == expected
    assert len(expected) == 4 * len(institutions())
    assert encounter_topics() == topic_names(TopicFamily.ENCOUNTERS)


@pytest.mark.parametrize(("family", "id_"), list(product(TopicFamily, institutions())))
def test_a_topics_name_leads_back_to_its_institution(family: TopicFamily, id_: str) -> None:
    name = topic_name(family, id_)
    assert institution_of(name) == id_
    assert re.fullmatch(r"[a-z]+\.[a-z0-9-]+", name)  # what Kafka, and its metrics' names, take without ado


# --- the file of them, which Terraform reads


def test_the_file_says_of_every_topic_what_the_code_says() -> None:
    topics.check()
    for name, said in json.loads(topics.TOPICS_FILE.read_text("utf-8")).items():
        family = TopicFamily(said["family"])
        assert (name, said["config"]) == (topic_name(family, said["institution"]), TOPIC_SPECS[family].config)


def test_a_file_that_is_behind_is_told_with_both_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = tmp_path / "topics.json"
    behind.write_text(topics.generate().replace(DAYS_30_MS, "1"), "utf-8")
    monkeypatch.setattr(topics, "TOPICS_FILE", behind)
    with pytest.raises(ConfigurationError, match=r"topics\.json.*topics\.py.*institutions\.yaml"):
        topics.check()


# --- no topic name is written elsewhere

_FAMILIES = "|".join(TopicFamily)
_PREFIX = re.compile(rf"\b({_FAMILIES})\.$")
_NAME = re.compile(rf"\b({_FAMILIES})\.({'|'.join(institutions())})\b|^({_FAMILIES})\.$")


def topic_literals(one: Module) -> set[str]:
    """Find what names a topic, or begins a topic's name; prose such as `risk.<institution>` names none."""
    docstrings = {node.value for _, node in one.nodes() if isinstance(node, ast.Expr)}
    return {
        f"{one.path}:{node.lineno}"
        for _, node in one.nodes()
        if (isinstance(node, ast.JoinedStr) and _begins_a_name(node))
        or (isinstance(node, ast.Constant) and node not in docstrings and _NAME.search(str(node.value)))
    }


def _begins_a_name(text: ast.JoinedStr) -> bool:
    return any(
        isinstance(value, ast.FormattedValue) and isinstance(before, ast.Constant) and _PREFIX.search(str(before.value))
        for before, value in pairwise(text.values)
    )


@pytest.mark.parametrize(
    "source", ['topic = f"risk.{id_}"', 't = "encounters.dkfz"', 't = "features." + id_', 'print(f"to rejected.{x}")']
)
def test_the_scan_finds_a_topic_named_in_code(source: str) -> None:
    assert topic_literals(module("x.py", source)) == {"x.py:1"}


@pytest.mark.parametrize("source", ['"""Read risk.dkfz."""', 'c = Column(comment="on rejected.<institution>")'])
def test_the_scan_passes_over_prose(source: str) -> None:
    assert topic_literals(module("x.py", source)) == set()


def test_no_topic_is_named_outside_the_schemas() -> None:
    found = {place for one in product_modules() for place in topic_literals(one)}
    assert {place for place in found if not place.startswith("schemas/topics.py:")} == set()
