"""The training jobs' manifests: one for each institution, locked down, with commands that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from healthalliance.cli import app
from schemas.errors import NotEnoughStaysError, TrainingUnderWayError
from schemas.institutions import institutions
from tests.contract.source_code import ROOT

FOLDER = ROOT / "k8s" / "base" / "training"
# Merged trees come with federation.
NOT_YET = "federated"


def manifests() -> dict[str, dict[str, Any]]:
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"]
    return {Path(name).stem: yaml.safe_load((FOLDER / name).read_text("utf-8")) for name in names}


MANIFESTS = manifests()


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    [found] = pod(manifest)["containers"]
    return dict(found)


def test_every_file_of_the_folder_is_a_resource() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")} - {"kustomization"}
    assert files == MANIFESTS.keys() == {"coordinator", "pooled", *(f"site-{one}" for one in institutions())}


@pytest.mark.parametrize("institution", institutions())
def test_a_site_trains_its_institution_with_its_own_secret_and_is_otherwise_like_the_others(institution: str) -> None:
    site = MANIFESTS[f"site-{institution}"]
    assert container(site)["command"][:5] == ["healthalliance", "federated", "site", "--institution", institution]
    assert [one["secretRef"]["name"] for one in container(site)["envFrom"] if "secretRef" in one] == [
        f"healthalliance-training-{institution}"
    ]
    first = next(iter(institutions()))
    assert json.loads(json.dumps(site).replace(institution, first)) == MANIFESTS[f"site-{first}"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_job_never_runs_beside_itself_and_ends(name: str) -> None:
    manifest = MANIFESTS[name]
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert manifest["spec"]["suspend"] is (name == "pooled")
    job = manifest["spec"]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > 0
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container(manifest)["name"]
    assert {NotEnoughStaysError.exit_code, TrainingUnderWayError.exit_code} <= set(rule["onExitCodes"]["values"])
    assert pod(manifest)["restartPolicy"] == "Never"  # a failure policy needs it


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_satisfies_the_restricted_security_standard_and_is_bounded(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec, only = pod(MANIFESTS[name]), container(MANIFESTS[name])
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert all(set(volume) <= {"name", "emptyDir"} for volume in spec["volumes"])
    assert only["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert only["resources"]["requests"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_secret_is_written_down_and_the_images_tag_is_fixed(name: str) -> None:
    given = {one["name"]: one["value"] for one in container(MANIFESTS[name]).get("env", ())}
    assert given == {"DATA_DIR": "/data", "HOME": "/tmp"}
    images = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["images"]
    assert [one["name"] for one in images if one["newTag"] not in ("", "latest")] == [
        container(MANIFESTS[name])["image"]
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_command_exists_and_knows_its_options(name: str) -> None:
    program, *words = container(MANIFESTS[name])["command"]
    assert program == "healthalliance"
    command: Any = typer.main.get_command(app)
    while words and not words[0].startswith("-"):
        if words[0] == NOT_YET and NOT_YET not in command.commands:
            pytest.skip("there is no federated training yet")
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {one for one in words if one.startswith("--")} <= known
