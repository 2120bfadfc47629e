"""The training jobs' manifests: one for each institution, locked down, with commands that exist."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
import yaml

from healthalliance.cli import app
from schemas.errors import NotEnoughStaysError, TrainingUnderWayError
from schemas.institutions import institutions
from tests.contract.source_code import ROOT

FOLDER = ROOT / "k8s" / "base" / "training"


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    files = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"]
    documents = [one for name in files for one in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))]
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == kind}


MANIFESTS, CLAIMS = of_kind("CronJob"), of_kind("PersistentVolumeClaim")


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    [found] = pod(manifest)["containers"]
    return dict(found)


def words(manifest: dict[str, Any]) -> list[str]:
    return [*container(manifest)["command"], *container(manifest)["args"]]


def hour(name: str) -> int:
    return int(MANIFESTS[name]["spec"]["schedule"].split()[1])


def test_every_file_of_the_folder_is_a_resource_and_every_institution_a_site() -> None:
    files = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"} == set(files)
    sites = {f"training-{step}-{one}" for one in institutions() for step in ("fit", "score")}
    assert MANIFESTS.keys() == {"training-merge", "training-register", "training-pooled", *sites}


@pytest.mark.parametrize("institution", institutions())
@pytest.mark.parametrize("step", ["fit", "score"])
def test_a_site_reads_its_institution_with_its_own_secret_and_is_otherwise_like_the_others(
    institution: str, step: str
) -> None:
    site = MANIFESTS[f"training-{step}-{institution}"]
    assert words(site)[:5] == ["healthalliance", "federated", "site", "--institution", institution]
    assert [one["secretRef"]["name"] for one in container(site)["envFrom"] if "secretRef" in one] == [
        f"healthalliance-training-{institution}"
    ]
    first = next(iter(institutions()))
    assert json.loads(json.dumps(site).replace(institution, first)) == MANIFESTS[f"training-{step}-{first}"]


@pytest.mark.parametrize("institution", institutions())
def test_each_step_reads_what_the_steps_before_it_wrote(institution: str) -> None:
    steps = [f"training-fit-{institution}", "training-merge", f"training-score-{institution}", "training-register"]
    assert [hour(name) for name in steps] == sorted({hour(name) for name in steps})
    written: set[str] = set()
    for name in steps:
        said = words(MANIFESTS[name])
        files = {one for one in said if one.startswith(f"/exchange/{institution}.") or one == "/exchange/merged.json"}
        out = {said[said.index("--out") + 1]} if "--out" in said else set()
        assert files - out <= written
        written |= out
    assert {f"/exchange/{institution}.forest.json", f"/exchange/{institution}.scores.json"} <= written


def test_every_claim_is_made_and_a_sites_own_is_only_its_own() -> None:
    for name, manifest in MANIFESTS.items():
        volumes = [one["persistentVolumeClaim"] for one in pod(manifest)["volumes"] if "persistentVolumeClaim" in one]
        claims = {one["claimName"] for one in volumes}
        assert claims <= CLAIMS.keys()
        assert {one for one in claims if one.startswith("healthalliance-site-")} <= {
            f"healthalliance-site-{name.rpartition('-')[2]}"
        }


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_job_never_runs_beside_itself_and_ends(name: str) -> None:
    manifest = MANIFESTS[name]
    assert (manifest["apiVersion"], manifest["kind"]) == ("batch/v1", "CronJob")
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert manifest["spec"]["suspend"] is (name == "training-pooled")
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
    assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
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
    program, *said = words(MANIFESTS[name])
    assert program == "healthalliance"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[said.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {one for one in said if one.startswith("--")} <= known
    needed = {
        parameter.opts[0] for parameter in command.params if parameter.required and parameter.opts[0].startswith("-")
    }
    assert needed <= set(said)
