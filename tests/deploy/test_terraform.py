"""The Terraform files: every argument is one that the provider knows, every reference leads somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.source_code import ROOT
from tests.deploy.terraform_files import FOLDER, Block, blocks, entries, files, texts, values

# Taken from the provider's published bindings for the types in use: arguments, whether each is required, nested blocks,
# and what the provider reckons out.
SCHEMA: dict[str, dict[str, Any]] = json.loads((ROOT / "tests/deploy/aws_schema.json").read_text("utf-8"))["types"]
META = {"count", "for_each", "depends_on", "lifecycle", "provider"}
AWS = [block for block in blocks() if block.type.startswith("aws_")]
ADDRESSES = {(block.kind, block.type, block.name) for block in blocks()}
FILES = {"main", "vpc", "security", "iam", "ecr", "s3", "msk", "rds", "eks", "variables", "outputs", "access"}


def faults(arguments: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    """Yield what the provider would refuse in a block's body."""
    given = dict(arguments)
    dynamic = {name: one for item in given.pop("dynamic", []) for name, one in item.items()}
    for name in given.keys() | dynamic.keys():
        if name not in schema:
            yield f"{place} has no argument {name}"
    for name, known in schema.items():
        if known["required"] and name not in given and name not in dynamic:
            yield f"{place} lacks {name}"
        for one in given.get(name, []) if "block" in known and isinstance(given.get(name), list) else []:
            if isinstance(one, dict):
                yield from faults(one, known["block"], f"{place}.{name}")
        if name in dynamic:
            yield from faults(dynamic[name]["content"][0], known["block"], f"{place}.{name}")


def test_each_part_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.tf")} == FILES


@pytest.mark.parametrize("block", AWS, ids=str)
def test_the_provider_knows_every_argument_and_gets_those_it_requires(block: Block) -> None:
    own = {name: value for name, value in block.body.items() if name not in META}
    assert list(faults(own, SCHEMA[f"{block.kind} {block.type}"]["arguments"], str(block))) == []


def test_an_unknown_and_a_missing_argument_are_found_in_nested_blocks_too() -> None:
    schema = {"name": {"required": True}, "rule": {"required": False, "block": {"id": {"required": True}}}}
    assert set(faults({"nam": 1, "rule": [{"idd": 1}]}, schema, "x")) == {
        "x has no argument nam",
        "x lacks name",
        "x.rule has no argument idd",
        "x.rule lacks id",
    }


_EXPRESSION = re.compile(r"\$\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_RESOURCE = re.compile(r"(?<![\w.])(data\.|ephemeral\.)?((?:aws|kafka|random)_\w+)\.(\w+)(?:\[[^\]]*\])?(?:\.(\w+))?")


def references(kind: str) -> set[str]:
    """Find the names after `var.` or `local.` in all files."""
    found = {text for content in files().values() for text in texts(content)}
    return {name for text in found for name in re.findall(rf"(?<![\w.]){kind}\.(\w+)", text)}


def test_every_variable_and_value_that_is_used_exists_and_every_one_that_exists_is_used() -> None:
    assert references("var") == entries("variable").keys()
    assert references("local") == values().keys()


@pytest.mark.parametrize("name", sorted(files()))
def test_every_reference_leads_to_a_resource_and_to_something_that_it_has(name: str) -> None:
    for text in texts(files()[name]):
        for prefix, type_, label, attribute in _RESOURCE.findall(text):
            kind = prefix.rstrip(".") or "resource"
            assert (kind, type_, label) in ADDRESSES, f"{name}: {text}"
            if attribute and type_.startswith("aws_"):
                known = SCHEMA[f"{kind} {type_}"]
                assert attribute in {*known["arguments"], *known["computed"], "id"}, f"{name}: {text}"


@pytest.mark.parametrize("name", sorted(entries("variable")))
def test_every_variable_is_described_and_typed_and_validated(name: str) -> None:
    variable = entries("variable")[name]
    assert variable["description"].endswith(".")
    assert "type" in variable
    assert "validation" in variable or variable["type"] in ("bool", "${bool}")


def test_every_output_is_described() -> None:
    assert all(output["description"].endswith(".") for output in entries("output").values())


# --- what must hold whatever else changes


def only(type_: str) -> dict[str, Any]:
    [block] = [one for one in blocks() if one.type == type_]
    return block.body


def test_the_brokers_are_three_take_tls_alone_and_know_their_clients() -> None:
    cluster = only("aws_msk_cluster")
    [encryption], [clients] = cluster["encryption_info"], cluster["client_authentication"]
    assert cluster["number_of_broker_nodes"] == 3
    assert encryption["encryption_in_transit"] == [{"client_broker": "TLS", "in_cluster": True}]
    assert (clients["unauthenticated"], clients["sasl"]) == (False, [{"iam": True, "scram": True}])


def test_what_is_not_allowed_by_a_rule_is_forbidden_and_a_write_is_on_two_brokers() -> None:
    properties = dict(re.findall(r"([\w.]+)=(\S+)", only("aws_msk_configuration")["server_properties"]))
    assert properties["allow.everyone.if.no.acl.found"] == "false"
    assert properties["auto.create.topics.enable"] == "false"
    assert properties["min.insync.replicas"] == "2"


def test_the_database_is_kept_twice_encrypted_backed_up_and_not_deleted_by_mistake() -> None:
    database = only("aws_db_instance")
    wanted = ("multi_az", "storage_encrypted", "deletion_protection", "manage_master_user_password")
    assert all(database[name] is True for name in wanted)
    assert (database["publicly_accessible"], database["skip_final_snapshot"]) == (False, False)
    assert {"name": "rds.force_ssl", "value": "1"} in only("aws_db_parameter_group")["parameter"]


def test_the_control_plane_is_public_only_for_named_addresses() -> None:
    cluster = only("aws_eks_cluster")
    [network] = cluster["vpc_config"]
    assert network["endpoint_private_access"] is True
    assert network["endpoint_public_access"] == "${length(var.api_public_cidrs) > 0}"
    assert entries("variable")["api_public_cidrs"]["default"] == []
    assert len(cluster["enabled_cluster_log_types"]) == 5


def test_no_password_is_kept_in_the_state() -> None:
    kept = {block.type for block in blocks() if block.kind != "ephemeral" and block.type.startswith("random_")}
    assert kept == set()
    for block in blocks():
        assert "password" not in block.body, str(block)
        assert "secret_string" not in block.body, str(block)
