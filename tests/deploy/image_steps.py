"""Go through the Dockerfile's steps without Docker, in a folder that stands for the image's root.

What it shows: with nothing but the files that `.dockerignore` lets through, the hashed packages install, the wheel is
made and complete, and what runs imports without pip, setuptools and any package of the development environment. What
it does not show: the base image, its user, the read-only file system. `make images` runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.contract.source_code import PACKAGES, ROOT
from tests.deploy.dockerfile import Stage, copies, needed

IMPORTS = {
    "worker": ("streams.worker", "healthalliance.workers", "healthalliance.alerting.service", "mlflow.artifacts"),
    "api": ("healthalliance.api.server",),
    "trainer": ("model_training.job", "healthalliance.training", "mlflow.server", "dvc", "dask", "matplotlib"),
}
# For Airflow's own machine; no package of ours.
NOT_INSTALLED = "model_training/airflow/"


def let_through(path: str) -> bool:
    """Tell whether `.dockerignore` lets a file of the context, or a folder, through.

    >>> let_through("schemas/topics.py"), let_through("tests/conftest.py"), let_through(".env")
    (True, False, False)
    """
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    first = path.split("/")[0]
    return any(re.fullmatch(re.escape(one).replace(r"\*", "[^/]*"), first) for one in allowed)


def run_steps(target: str, folder: Path) -> None:
    """Run the steps of all stages but `user`, whose only ones need the rights of root."""
    subprocess.run([sys.executable, "-m", "venv", folder / "python"], check=True)
    for stage in needed(target):
        _copy(stage, folder)
        for step in stage.all("RUN") if stage.name != "user" else []:
            print(f"[{stage.name}] {step}", flush=True)
            subprocess.run(
                ["bash", "-ec", _inside(step, folder)], cwd=_place(stage, folder), env=_of(folder), check=True
            )


def _place(stage: Stage, folder: Path) -> Path:
    place = folder / (stage.all("WORKDIR") or ["/build"])[0].lstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _copy(stage: Stage, folder: Path) -> None:
    for sources, target in copies(stage):
        place = _place(stage, folder) / Path(target).name if target not in ("./", "/build/") else folder / "build"
        for source in sources:
            if not let_through(source):
                raise SystemExit(f".dockerignore keeps {source} from the stage {stage.name}")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)


def _inside(step: str, folder: Path) -> str:
    return re.sub(r"(?<![\w.])/(build|opt|wheels)\b", rf"{folder}/\1", step)


def _of(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PATH": f"{folder}/python/bin{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}


def check(target: str, folder: Path) -> None:
    """Import what the image runs, have the command line answer, and look for files that are missing."""
    python = folder / "opt/venv/bin/python"
    statements = "; ".join(f"import {name}" for name in IMPORTS[target])
    subprocess.run([python, "-c", statements], cwd=folder, env=_of(folder), check=True)
    subprocess.run(
        [folder / "opt/venv/bin/healthalliance", "--help"], cwd=folder, env=_of(folder), check=True, capture_output=True
    )
    [installed] = (folder / "opt/venv/lib").glob("python3.*/site-packages")
    if missing := [path for path in tracked() if not (installed / path).exists()]:
        raise SystemExit(f"not in the image: {missing}")
    if left := [name for name in ("pip", "setuptools") if (installed / name).exists()]:
        raise SystemExit(f"still in the image: {left}")


def tracked() -> list[str]:
    """List the files of our packages that an image is to have."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if not path.startswith(NOT_INSTALLED)]


if __name__ == "__main__":
    for wanted in sys.argv[1:] or IMPORTS:
        with tempfile.TemporaryDirectory() as name:
            run_steps(wanted, Path(name))
            check(wanted, Path(name))
            size = subprocess.run(["du", "-sm", f"{name}/opt/venv"], capture_output=True, text=True, check=True)
            print(f"{wanted}: {size.stdout.split()[0]} MB of packages; its imports and command line work", flush=True)
