"""The pages of documentation: each command is run by a test, each link leads somewhere, each list is the code's."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from healthalliance import cli
from schemas.errors import HealthAllianceError
from schemas.features import FEATURE_NAMES
from schemas.institutions import institutions
from schemas.messages import RiskScore
from schemas.rejection import Reason
from tests.contract.test_errors import ERRORS
from tests.documents import (
    AS_THEY_STAND,
    ELSEWHERE,
    NAMES,
    ROOT,
    all_commands,
    anchors,
    as_they_stand,
    blocks,
    coded,
    commands,
    inline_code,
    links,
    needs_engine,
    read,
    rows,
    section,
)
from tests.drills.test_docs import RUN

LINKED = (*NAMES, "CHANGELOG.md", "tests/faults/REPORT.md")
EACH = pytest.mark.parametrize("page", NAMES)


def test_these_are_all_pages() -> None:
    assert {*NAMES} == {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} | {
        f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")
    }


def test_the_readme_is_short_and_names_every_page() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 120
    assert {*NAMES} - {"README.md"} <= {one.partition("#")[0] for one in links(text)}


# --- commands


def test_each_command_of_a_page_is_run_by_a_test() -> None:
    told = [one.text for one in all_commands() if not needs_engine(one)]
    assert [one for one in told if one not in RUN.keys() | ELSEWHERE.keys() | as_they_stand()] == []
    assert [one for one in (*RUN, *ELSEWHERE) if one not in told] == [], "no page has these any more"
    assert RUN.keys() & ELSEWHERE.keys() == set()


@pytest.mark.parametrize("command", ELSEWHERE)
def test_a_command_that_is_run_elsewhere_has_its_words_there(command: str) -> None:
    text = (ROOT / ELSEWHERE[command]).read_text("utf-8").replace("-", "_")
    [told] = [one for one in all_commands() if one.text == command]
    assert [word for word in essential(told.words()) if word.replace("-", "_") not in text] == []


@pytest.mark.parametrize("place", AS_THEY_STAND)
def test_commands_that_are_run_as_they_stand_are_read_from_their_page(place: tuple[str, str]) -> None:
    page, heading = place
    assert as_they_stand()
    assert f'section("{page}", "{heading}")' in (ROOT / AS_THEY_STAND[place]).read_text("utf-8")


def essential(words: list[str]) -> list[str]:
    """Leave out what another run may have otherwise: names of files, institutions, numbers, times."""
    given = [word.lstrip("-") for word in words if re.fullmatch(r"-{0,2}[a-zA-Z][a-zA-Z-]*", word)]
    return [word for word in given if word not in {"healthalliance", "i", *institutions()}]


def test_the_essential_words_are_the_commands_and_options() -> None:
    assert essential(shlex.split("healthalliance publish ukhd --part 2/3 a.csv.gz")) == [
        "publish", "part",
    ]  # fmt: skip


def test_commands_are_read_as_a_shell_reads_them() -> None:
    text = "```\nA=1 one --two  # why\n# only a comment\n$ three \\\n  four#5\n```\n```text\nno command\n```\n"
    assert [(one.line, one.text) for one in commands("x", text)] == [(2, "A=1 one --two"), (4, "three four#5")]
    assert commands("x", text)[0].words() == ["one", "--two"]


@EACH
def test_nothing_but_a_block_of_commands_holds_commands(page: str) -> None:
    marked = [one for one in blocks(read(page)) if one.language in {"text", "ini", "json"}]
    assert [one.text for one in marked if re.search(r"^\$? ?(healthalliance|make|curl|psql) ", one.text, re.M)] == []


# --- what pages say of commands


def named_command(words: list[str]) -> tuple[Any, list[str]] | None:
    """Follow words to the command they name, and return it with what is left; None where there is none."""
    command: Any = get_command(cli.app)
    while words and isinstance(command, TyperGroup):
        if command.invoke_without_command and words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return None
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    return own | {"--help"}


def everything(command: Any) -> Iterator[Any]:
    yield command
    if isinstance(command, TyperGroup):
        for one in command.commands.values():
            yield from everything(one)


def faults_of(text: str) -> list[str]:
    """Say what of a `healthalliance …` line, given without the name of the program, the command line does not have."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    found = named_command(words)
    if found is None:
        return [f"no command: {text}"]
    command, left = found
    options = [word.partition("=")[0] for word in left if re.match(r"--?[a-z]", word)]
    return [f"no option {one}: {text}" for one in options if one not in options_of(command)]


@EACH
def test_each_command_and_option_that_a_page_names_is_there(page: str) -> None:
    spans = [*inline_code(read(page)), *(shlex.join(one.words()) for one in commands(page))]
    faults = [fault for one in spans if one.startswith("healthalliance ") for fault in faults_of(one.partition(" ")[2])]
    known = set().union(*map(options_of, everything(get_command(cli.app))))
    alone = [one.split()[0] for one in spans if re.match(r"--[a-z]", one)]
    assert faults + [f"no option {one}" for one in alone if one not in known and page != "ARCHITECTURE.md"] == []


@pytest.mark.parametrize("text", ["trian", "train --quick", "rejected", "rejected lst", "train --federated --polled"])
def test_a_command_or_option_that_is_not_there_is_noticed(text: str) -> None:
    assert bool(faults_of(text)) == (text != "rejected")


@EACH
def test_each_target_of_make_that_a_page_names_is_there(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    spans = [*inline_code(read(page)), *(one.text for one in commands(page))]
    assert {one.split()[1] for one in spans if one.startswith("make ")} <= targets


def test_the_table_of_commands_has_every_command() -> None:
    told = [name.split()[0] for row in rows(section("docs/operations.md", "Commands")) for name in coded(row[0])]
    root = get_command(cli.app)
    assert isinstance(root, TyperGroup)
    assert root.commands.keys() - told == set()


@EACH
def test_examples_in_python_are_python(page: str) -> None:
    for block in blocks(read(page)):
        if block.language == "python":
            ast.parse(block.text)


# --- links


@pytest.mark.parametrize("page", LINKED)
def test_each_link_leads_somewhere(page: str) -> None:
    assert [one for one in links(read(page)) if not leads_somewhere(ROOT / page, one)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page if not path else (page.parent / path).resolve()
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text("utf-8"))


@pytest.mark.parametrize("link", ["docs/none.md", "docs/http.md#nowhere", "#nowhere"])
def test_a_link_that_leads_nowhere_is_noticed(link: str) -> None:
    assert not leads_somewhere(ROOT / "README.md", link)


# --- lists that have their home in the code


def test_the_fields_of_a_score_are_told_in_their_order() -> None:
    told = [name for row in rows(section("docs/alerting.md", "Fields")) for name in coded(row[0])]
    assert sorted(told) == sorted(RiskScore.__dataclass_fields__)


def test_the_features_are_told_in_their_order() -> None:
    assert [coded(row[0])[0] for row in rows(section("docs/alerting.md", "Features"))] == list(FEATURE_NAMES)


def test_the_reason_codes_are_told_in_the_order_of_the_tests() -> None:
    assert [coded(row[0])[0] for row in rows(section("docs/hospitals.md", "Reason codes"))] == list(Reason)


def test_the_exit_codes_are_told() -> None:
    told = [int(row[0]) for row in rows(section("docs/operations.md", "Exit codes"))]
    of_errors = {kind.exit_code for kind in ERRORS.values() if issubclass(kind, HealthAllianceError)}
    assert told == sorted(of_errors | {0, 1, 2, 130})
