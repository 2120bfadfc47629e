"""A fourth institution in a copy of the tree: what is generated follows, and the checks name every place by hand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.source_code import ROOT
from tests.documents import coded, rows, section

pytestmark = pytest.mark.timeout(300)

_NEW, _LIKE = "nct", "embl"
_KUBERNETES = "tests/deploy/test_kubernetes.py::test_"
# Place, as docs/operations.md lists it → the check that names it.
_GENERATED = {
    "schemas/topics.json": "tests/contract/test_topics.py::test_the_file_says_of_every_topic_what_the_code_says",
    "k8s/base/schemas/": f"{_KUBERNETES}what_is_made_of_other_files_is_as_it_is_made",
}
_BY_HAND = {
    ".env.example": "tests/contract/test_settings.py::"
    "test_the_example_lists_every_setting_in_order_with_its_description_and_default",
    "docker-compose.yml": "tests/deploy/test_compose.py::"
    "test_each_institution_has_its_alerts_under_a_profile_and_its_key_for_the_api",
    "k8s/base/api.yaml": f"{_KUBERNETES}a_program_gets_the_settings_and_what_it_cannot_do_without",
    "k8s/components/alerting/": f"{_KUBERNETES}every_institution_has_its_alerting_and_all_are_alike",
    "k8s/base/training/": "tests/contract/test_training_manifests.py::"
    "test_every_file_of_the_folder_is_a_resource_and_every_institution_a_site",
    "docs/costs.md": "tests/deploy/test_costs.py::test_the_page_has_the_table_that_its_prices_and_the_sizes_give",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the repository holds, and enter the institution."""
    copy = tmp_path_factory.mktemp("tree")
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if told.returncode != 0:
        pytest.skip("needs the repository, which a copy of its files does not have")
    for name in filter(None, told.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    with (copy / "schemas" / "institutions.yaml").open("a") as file:
        file.write(f"  {_NEW}:\n    name: Nationales Centrum für Tumorerkrankungen\n")
    return copy


def python(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the copy's modules and no others of the project."""
    return subprocess.run(
        [sys.executable, "-P", *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def failing(tree: Path) -> set[str]:
    """Return the places whose checks fail."""
    checks = _GENERATED | _BY_HAND
    ended = python(tree, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", "-rfE", *checks.values())
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    amiss = {found.split("[")[0] for found in re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.M)}
    return {place for place, check in checks.items() if check in amiss}


def once_more(path: Path, between: str, having: str) -> None:
    """Put a copy for the new institution behind the pieces of a file that another one has for itself."""
    pieces = path.read_text("utf-8").split(between)
    found = [place for place, piece in enumerate(pieces) if having in piece]
    assert found, (path, having)
    copies = [pieces[place].replace(_LIKE, _NEW).replace(_LIKE.upper(), _NEW.upper()) for place in found]
    pieces[found[-1] + 1 : found[-1] + 1] = copies
    path.write_text(between.join(pieces), "utf-8")


def by_hand(tree: Path) -> None:
    """Do what docs/operations.md says, in its order."""
    key = f"INSTITUTION_API_KEY_{_LIKE.upper()}"
    once_more(tree / ".env.example", "\n", key)
    once_more(tree / "docs" / "operations.md", "\n", f"`{key}`")
    once_more(tree / "docker-compose.yml", "\n", f"{key}:")
    once_more(tree / "docker-compose.yml", "\n\n", f"alerts-{_LIKE}:")
    once_more(tree / "k8s" / "base" / "api.yaml", "\n", key)
    for folder, name in ((tree / "k8s/components/alerting", ""), (tree / "k8s/base/training", "site-")):
        text = (folder / f"{name}{_LIKE}.yaml").read_text("utf-8")
        (folder / f"{name}{_NEW}.yaml").write_text(text.replace(_LIKE, _NEW), "utf-8")
    once_more(tree / "k8s/components/alerting/kustomization.yaml", ", ", f"{_LIKE}.yaml")
    once_more(tree / "k8s/base/training/kustomization.yaml", "\n", f"site-{_LIKE}.yaml")
    once_more(tree / "k8s/base/training/storage.yaml", "---\n", f"site-{_LIKE}")
    once_more(tree / "k8s/base/training/coordinator.yaml", "\n", f"/exchange/{_LIKE}.forest.json")
    once_more(tree / "k8s/base/training/coordinator.yaml", "\n", f"/exchange/{_LIKE}.scores.json")
    page = tree / "docs" / "costs.md"
    table = python(tree, "-m", "tests.deploy.costs").stdout
    page.write_text(re.sub(r"\| part \|.*?\n\n", table + "\n", page.read_text("utf-8"), flags=re.DOTALL), "utf-8")


def test_the_checks_name_what_has_to_be_made_anew_and_by_hand(tree: Path) -> None:
    assert failing(tree) == _GENERATED.keys() | _BY_HAND.keys()
    assert python(tree, "-m", "schemas.topics", "write").returncode == 0
    assert python(tree, "k8s/generate.py").returncode == 0
    assert failing(tree) == _BY_HAND.keys()
    by_hand(tree)
    assert failing(tree) == set()


def test_the_page_lists_them() -> None:
    told = [coded(row[0])[0] for row in rows(section("docs/operations.md", "Adding an institution"))]
    assert told == [*_GENERATED, *_BY_HAND]
