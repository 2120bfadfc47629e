"""The workflows: pinned actions, make targets and roles that exist, images named as Terraform names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.source_code import ROOT
from tests.deploy.terraform_files import values

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
TEXTS = {path.name: path.read_text("utf-8") for path in WORKFLOWS}
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
RULES = {name: needs.split() for name, needs in re.findall(r"^([a-z]+):([^=#\n]*)", MAKEFILE, re.M)}
EACH_WORKFLOW = pytest.mark.parametrize("name", TEXTS)


def workflow(name: str) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    return {("on" if key is True else key): value for key, value in yaml.safe_load(TEXTS[name]).items()}


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in workflow(name)["jobs"].values():
        yield from job["steps"]


def commands(name: str) -> str:
    return "\n".join(step.get("run", "") for step in steps(name))


def matrix(name: str, job: str, key: str) -> list[str]:
    found: list[str] = workflow(name)["jobs"][job]["strategy"]["matrix"][key]
    return found


@EACH_WORKFLOW
def test_every_action_is_pinned_to_a_commit_and_says_its_version(name: str) -> None:
    lines = [line.strip() for line in TEXTS[name].splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert re.fullmatch(r"(- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_has_the_same_pin_everywhere() -> None:
    pins = set(re.findall(r"uses: (\S+)@(\S+)", "\n".join(TEXTS.values())))
    assert len(pins) == len(dict(pins))


@EACH_WORKFLOW
def test_a_workflow_may_read_and_a_job_may_ask_for_a_token_and_no_more(name: str) -> None:
    found = workflow(name)
    assert found["permissions"] == {"contents": "read"}
    for job in found["jobs"].values():
        assert job.get("permissions", {"contents": "read"}).items() <= {"contents": "read", "id-token": "write"}.items()
        assert "timeout-minutes" in job


@EACH_WORKFLOW
def test_no_key_is_kept_and_no_foreign_text_runs_as_a_command(name: str) -> None:
    assert "secrets." not in TEXTS[name]
    assert "pull_request_target" not in TEXTS[name]
    assert "${{" not in commands(name)


def test_the_make_targets_exist() -> None:
    used = {target for name in TEXTS for target in re.findall(r"make ([a-z]+)", commands(name))}
    assert used == {"check", "test", "drills"}
    assert used | set(matrix("code-quality.yaml", "check", "target")) <= RULES.keys()


def test_the_check_the_hooks_and_the_quality_workflow_run_the_same() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    entries = [hook["entry"] for repository in hooks for hook in repository["hooks"]]
    assert entries == [f"make {target}" for target in RULES["check"]]
    assert matrix("code-quality.yaml", "check", "target") == RULES["check"]


def test_what_lands_is_checked_as_the_workflow_checks_it() -> None:
    own = re.findall(r"^make [a-z]+$", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)
    found = [step["run"] for step in workflow("ci-cd.yaml")["jobs"]["test"]["steps"] if "run" in step]
    assert found == own


def test_the_images_are_those_that_have_a_repository() -> None:
    repositories = set(re.findall(r'"(\w+)"', values()["images"]))
    assert set(matrix("ci-cd.yaml", "image", "image")) == repositories
    [deployed] = re.findall(r"for image in ([\w ]+); do", commands("ci-cd.yaml"))
    assert set(deployed.split()) == repositories
    assert f"/{values()['name']}/${{{{ matrix.image }}}}:${{{{ github.sha }}}}" in TEXTS["ci-cd.yaml"]


def test_the_roles_the_cluster_and_the_environment_are_terraforms() -> None:
    iam = (ROOT / "terraform" / "iam.tf").read_text("utf-8")
    roles = re.findall(r":role/healthalliance-(\w+)", TEXTS["ci-cd.yaml"])
    assert set(roles) == set(values()["github_subjects"])
    assert f"environment:{workflow('ci-cd.yaml')['jobs']['deploy']['environment']}" in iam
    assert "--name healthalliance-eks-cluster" in commands("ci-cd.yaml")


def test_only_the_main_branch_pushes_and_deploys() -> None:
    only_main = "github.ref == 'refs/heads/main' && github.event_name == 'push'"
    jobs = workflow("ci-cd.yaml")["jobs"]
    assert jobs["deploy"]["if"] == only_main
    named = [
        step for step in jobs["image"]["steps"] if "aws" in step.get("uses", "") or "docker push" in step.get("run", "")
    ]
    assert len(named) == 3
    assert {step.get("if") for step in named} == {only_main}


def test_what_is_pushed_has_been_scanned_before() -> None:
    order = [step.get("uses", step.get("run", "")) for step in workflow("ci-cd.yaml")["jobs"]["image"]["steps"]]
    places = [
        next(n for n, one in enumerate(order) if word in one) for word in ("sbom-action", "trivy-action", "docker push")
    ]
    assert places == sorted(places)


def test_updates_are_looked_for_where_there_is_something_to_update() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text("utf-8"))["updates"]
    found = {one["package-ecosystem"]: one.get("directories") or [one["directory"]] for one in updates}
    assert found.keys() == {"pip", "github-actions", "docker", "terraform", "maven", "npm"}
    for ecosystem, pattern in (("maven", "pom.xml"), ("npm", "package.json")):
        paths = [path for path in ROOT.glob(f"*/**/{pattern}") if not _foreign(path)]
        assert sorted(found[ecosystem]) == sorted(f"/{path.parent.relative_to(ROOT)}" for path in paths)


def _foreign(path: Path) -> bool:
    return bool({".venv", ".local", "node_modules"} & set(path.parts))
