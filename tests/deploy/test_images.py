"""The images, without a Docker engine: stages, files, packages, user, ports and health.

`make images` goes further and runs the Dockerfile's steps; see `tests/deploy/image_steps.py` for what that shows.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from connectors.settings import Settings
from healthalliance.api import health as api_health
from tests.contract.source_code import PACKAGES, ROOT, product_modules
from tests.deploy import dockerfile
from tests.deploy.image_steps import let_through, run_steps, tracked
from tests.deploy.terraform_files import values

TARGETS = ("worker", "api", "trainer")
EACH = pytest.mark.parametrize("target", TARGETS)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {"worker": "runtime", "api": "runtime", "trainer": "training"}


def default(setting: str) -> object:
    return Settings.model_fields[setting].default


# --- the file


def test_the_targets_are_those_that_have_a_repository() -> None:
    assert set(TARGETS) == set(re.findall(r'"(\w+)"', values()["images"]))
    assert set(TARGETS) <= dockerfile.stages().keys()


def test_every_stage_begins_from_another_or_from_the_one_base_that_is_pinned() -> None:
    bases = [stage.base for stage in dockerfile.stages().values() if stage.base not in dockerfile.stages()]
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])


@EACH
def test_an_image_runs_as_a_user_without_rights_the_same_as_in_kubernetes(target: str) -> None:
    user, _, group = dockerfile.last(target, "USER").partition(":")
    files = [path.read_text("utf-8") for path in (ROOT / "k8s").rglob("*.yaml")]
    manifests = "".join(one for one in files if re.search(r"image: healthalliance/", one))
    assert {user, group} == set(re.findall(r"runAs(?:User|Group): (\d+)", manifests)) == {"10001"}


@EACH
def test_an_image_sets_only_settings_and_writes_to_its_data_folder(target: str) -> None:
    own = {
        name: value
        for name, value in dockerfile.environment(target).items()
        if not re.match("PATH|HOME|P(IP|YTHON)", name)
    }
    assert own == {"DATA_DIR": "/data", "METRICS_HOST": "0.0.0.0", "API_HOST": "0.0.0.0"}
    assert own.keys() <= {name.upper() for name in Settings.model_fields}
    assert dockerfile.last(target, "WORKDIR") == "/data"
    assert "--owner=10001 --group=10001 --mode=0750 /data" in dockerfile.last(target, "RUN")


@pytest.mark.parametrize(
    ("target", "path", "port"), [("worker", "/healthz", "metrics_port"), ("api", "/health", "api_port")]
)
def test_an_image_asks_its_program_how_it_is(target: str, path: str, port: str) -> None:
    check = dockerfile.last(target, "HEALTHCHECK")
    assert f"http://127.0.0.1:{default(port)}{path}'" in check
    code = json.loads(check.partition(" CMD ")[2])
    ast.parse(code[-1])
    assert code[:2] == ["python", "-c"]


def test_the_paths_that_are_asked_are_served() -> None:
    assert '"/healthz"' in (ROOT / "streams" / "health.py").read_text("utf-8")
    assert "/health" in {route.path for route in api_health.router.routes}  # type: ignore[attr-defined]


def test_an_image_names_the_ports_that_its_program_listens_on() -> None:
    named = {target: dockerfile.last(target, "EXPOSE").split() for target in ("worker", "api")}
    assert named == {
        "worker": [str(default("metrics_port"))],
        "api": [str(default("api_port")), str(default("api_metrics_port"))],
    }


# --- the context


def test_the_context_has_what_is_copied_and_nothing_else() -> None:
    copied = {
        source
        for stage in dockerfile.stages().values()
        for sources, _ in dockerfile.copies(stage)
        for source in sources
    }
    assert [one for one in copied if not (ROOT / one).exists() or not let_through(one)] == []
    present = {path.name for path in ROOT.iterdir() if let_through(path.name)}
    assert present == copied
    assert {*PACKAGES} <= copied


def test_the_context_begins_with_nothing_and_keeps_secrets_and_data_out() -> None:
    lines = [one for one in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not one.startswith("#")]
    assert lines[0] == "*"
    kept_out = [".env", ".git/config", ".local/pseudonym.key", "terraform/production.tfvars", "tests/conftest.py"]
    assert [one for one in kept_out if let_through(one)] == []


def test_a_step_whose_file_is_not_in_the_context_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = dockerfile.Stage("python", "one", [("COPY", "tests /build/")])
    monkeypatch.setattr("tests.deploy.image_steps.needed", lambda target: [stage])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=r"\.dockerignore keeps tests"):
        run_steps("one", tmp_path)


def test_the_wheel_has_every_file_of_our_packages(tmp_path: Path) -> None:
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    for path in (*tracked(), "pyproject.toml", "README.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, tmp_path], check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert set(tracked()) - set(zipfile.ZipFile(wheel).namelist()) == set()


# --- the packages


def locked(name: str) -> dict[str, str]:
    """Read a lock: package → version."""
    text = (ROOT / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[^\]]*\])?==(\S+)", text, flags=re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


EXTRAS = PROJECT["optional-dependencies"]


@EACH
def test_an_image_installs_its_lock_by_hashes(target: str) -> None:
    steps = " ".join(step for stage in dockerfile.needed(target) for step in stage.all("RUN"))
    assert re.findall(r"--require-hashes (?:--only-binary :all: )?-r (\S+)", steps) == [
        "requirements-build.lock", f"/build/requirements-{LOCKS[target]}.lock",
    ]  # fmt: skip


@pytest.mark.parametrize("lock", ["build", "runtime", "training"])
def test_the_images_have_the_versions_that_the_tests_run_with(lock: str) -> None:
    tested = locked("requirements.lock")
    assert {
        name: version for name, version in locked(f"requirements-{lock}.lock").items() if tested.get(name) != version
    } == {}


def test_the_locks_have_what_the_project_needs_and_the_workers_nothing_of_the_training_job() -> None:
    own = names(PROJECT["dependencies"])
    assert own <= locked("requirements-runtime.lock").keys()
    assert own | names(EXTRAS["training"]) <= locked("requirements-training.lock").keys()
    assert names(EXTRAS["training"] + EXTRAS["local-stack"]) & locked("requirements-runtime.lock").keys() == set()
    assert names(EXTRAS["local-stack"]) & locked("requirements-training.lock").keys() == set()


_ONLY_THESE = """
import sys
class OnlyLocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{name} is not in the lock", name=name)
sys.meta_path.insert(0, OnlyLocked())
for name in NAMES:
    __import__(name)
"""


def imported_with(lock: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    """Import modules where everything that the lock does not have is refused."""
    allowed = locked(lock).keys() | {"healthalliance"}
    refused = {
        top for top, by in packages_distributions().items() if not {canonicalize_name(one) for one in by} & allowed
    }
    code = f"REFUSED = {refused!r}\nNAMES = {modules!r}\n{_ONLY_THESE}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


RUNS = {
    "worker": ["streams.worker", "healthalliance.workers", "connectors.migrate", "connectors.kafka"],
    "api": ["healthalliance.cli", "healthalliance.local_stack", "healthalliance.api.server", "connectors.migrate"],
    "alerts": ["healthalliance.alerting.service", "healthalliance.alerting.consumer", "healthalliance.alerting.sinks"],
    "model store": ["mlflow.artifacts", "mlflow.tracking"],
}


@pytest.mark.parametrize("program", RUNS)
def test_what_workers_and_api_import_is_in_the_lock_of_what_runs(program: str) -> None:
    done = imported_with("requirements-runtime.lock", RUNS[program])
    assert done.returncode == 0, done.stderr[-800:]


def test_a_package_that_the_lock_does_not_have_is_noticed() -> None:
    assert (
        "sklearn is not in the lock" in imported_with("requirements-runtime.lock", ["model_training.baselines"]).stderr
    )


# Module of ours → package that only another image or machine has, and that it imports only when it needs it.
ELSEWHERE = {
    "connectors/models/registering.py": {"onnx", "pandas"},
    "healthalliance/risk_charts.py": {"matplotlib"},
    "schemas/avro.py": {"py_avro_schema"},
}


def test_what_is_imported_anywhere_but_in_training_is_in_the_lock_of_what_runs() -> None:
    allowed = locked("requirements-runtime.lock").keys() | {"healthalliance"}
    distributions = packages_distributions()
    lacking: dict[str, set[str]] = {}
    for module in product_modules():
        if module.path.startswith("model_training/"):
            continue
        for top in imports(module.tree) & distributions.keys() - {*PACKAGES}:
            if not {canonicalize_name(one) for one in distributions[top]} & allowed:
                lacking.setdefault(module.path, set()).add(top)
    assert lacking == ELSEWHERE


def imports(tree: ast.Module) -> set[str]:
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    return {name.partition(".")[0] for name in found}
