"""The pages of documentation as data: command lines, links, headings, tables, and what they write in code style."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# In the order in which a newcomer reads them, and in which their commands run.
NAMES = (
    "README.md",
    "docs/hospitals.md",
    "docs/http.md",
    "docs/security.md",
    "docs/worklist.md",
    "docs/alerting.md",
    "docs/analysts.md",
    "docs/operations.md",
    "docs/runbooks.md",
    "docs/models.md",
    "docs/aws.md",
    "docs/costs.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
)

# A block without a language is one of commands; output and diagrams are marked as `text`.
_SHELL = {"sh", "bash", "shell", "console", ""}

# Command → the file that runs the same: what takes minutes, ends by Ctrl-C, or has tests of its own.
ELSEWHERE = {
    "make demo": "tests/drills/test_demo.py",
    "make check": ".ci/run",
    "make test": ".ci/run",
    "make drills": ".ci/run",
    "healthalliance up": "tests/drills/test_local_stack.py",
    "healthalliance down": "tests/drills/test_local_stack.py",
    "healthalliance worker --history-only": "tests/integration/fixtures.py",
    "healthalliance worker": "tests/integration/test_health.py",
    "healthalliance doctor": "tests/integration/test_command_line.py",
    "healthalliance status": "tests/integration/test_command_line.py",
    "healthalliance acl apply --dry-run": "tests/integration/test_kafka_access.py",
    "healthalliance acl apply": "tests/integration/test_kafka_access.py",
    "healthalliance pseudonym rotate": "tests/integration/test_rotation.py",
    "healthalliance rebuild": "tests/drills/test_rebuild.py",
    **dict.fromkeys(
        [
            "healthalliance erase --institution ukhd --patient 123",
            "healthalliance erase --institution ukhd --patients ids.txt --snapshots snapshots/",
            "healthalliance verify-erasure certificates/erasure-ukhd-….json",
            "healthalliance export-patient --institution ukhd --patient 123 --out patient.json",
        ],
        "tests/integration/test_erasure.py",
    ),
    "healthalliance alerts --institution ukhd --min-band high --sink webhook --budget 20": (
        "tests/integration/test_alerts.py"
    ),
    "healthalliance alerts simulate --institution ukhd --budget 20 --since 90d": "tests/integration/test_alerts.py",
    **dict.fromkeys(
        ["MODEL_ALIAS=challenger healthalliance replay -i embl --from 2025-03-01 --into what_if"],
        "tests/drills/test_replay.py",
    ),
    **dict.fromkeys(
        [
            "healthalliance publish dkfz --dataset diabetes130 diabetes130.csv.gz",
            "healthalliance publish ukhd --dataset diabetes130 --part 2/3 diabetes130.csv.gz",
        ],
        "tests/integration/test_diabetes130.py",
    ),
    **dict.fromkeys(
        [
            "healthalliance federated site --institution dkfz --out dkfz.forest.json",
            "healthalliance federated merge *.forest.json --out merged.json",
            "healthalliance federated site --institution dkfz --merged merged.json --out dkfz.scores.json",
            "healthalliance federated register *.scores.json --merged merged.json",
        ],
        "tests/drills/test_federated.py",
    ),
}

# Section → the file that reads its blocks of commands and runs them as they stand.
AS_THEY_STAND = {("docs/operations.md", "Backup and restore"): "tests/drills/test_restore.py"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, empty where none is given, the line of the page it begins in, and its text."""

    language: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, joined where it goes over several, without its comment; `line`: of the page."""

    page: str
    line: int
    text: str

    def words(self) -> list[str]:
        """Split it as the shell does, without variables in front."""
        words = shlex.split(self.text)
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            del words[0]
        return words


def needs_engine(command: Command) -> bool:
    """Tell whether only a machine with Docker can run it; tests/deploy/test_compose.py checks its words instead."""
    return command.text.startswith("docker ")


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(text: str) -> list[Block]:
    """Read every fenced block, also those that are indented."""
    found, begun = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if begun is None and (fence := re.fullmatch(r"(\s*)```(\w*)\s*", line)):
            begun = Block(fence[2], number, "")
        elif begun is not None and line.strip() == "```":
            found.append(begun)
            begun = None
        elif begun is not None:
            begun = Block(begun.language, begun.line, f"{begun.text}{line}\n")
    if begun is not None:
        raise ValueError(f"the block that begins in line {begun.line} does not end")
    return found


def commands(page: str, text: str | None = None) -> list[Command]:
    """Read every command line of a page's blocks of commands."""
    found = []
    for block in blocks(read(page) if text is None else text):
        if block.language not in _SHELL:
            continue
        begun: list[str] = []
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            begun.append(line.strip().removesuffix("\\").strip())
            if line.endswith("\\"):
                continue
            command = _without_comment(" ".join(begun))
            if command:
                found.append(Command(page, number - len(begun) + 1, command))
            begun = []
    return found


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*$", "", line.removeprefix("$ "))


def as_they_stand() -> set[str]:
    """Return the command lines that a test reads from their page."""
    return {one.text for page, heading in AS_THEY_STAND for one in commands(page, section(page, heading))}


def all_commands() -> list[Command]:
    """Read the command lines of all pages, in the pages' order, each only once."""
    found = {one.text: one for page in reversed(NAMES) for one in reversed(commands(page))}
    return sorted(found.values(), key=lambda one: (NAMES.index(one.page), one.line))


def prose(text: str) -> str:
    """Blank the fenced blocks out."""
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
    """List where a page's links lead, other pages and places in them; without addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [one for one in found if not re.match(r"\w+:", one)]


def anchors(text: str) -> set[str]:
    """Name the places of a page that a link may lead to, as GitHub names headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", prose(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def inline_code(text: str) -> list[str]:
    """List what a page writes in code style outside of blocks, lines joined."""
    return [" ".join(one.split()) for one in re.findall(r"`([^`]+)`", prose(text))]


def section(page: str, heading: str) -> str:
    """Return what stands under a heading, with its subsections; raise ValueError where there is no such heading."""
    lines = read(page).splitlines()
    begin = next((number for number, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(heading)}", line)), None)
    if begin is None:
        raise ValueError(f"{page} has no section {heading}")
    level = lines[begin].index(" ")
    end = next(
        (at for at in range(begin + 1, len(lines)) if re.match(rf"#{{1,{level}}} ", lines[at])),
        len(lines),
    )
    return "\n".join(lines[begin + 1 : end])


def rows(text: str) -> list[list[str]]:
    """Read the rows of all tables in a text, without their headings."""
    return [list(cells) for cells in _rows(text)]


def _rows(text: str) -> Iterator[list[str]]:
    is_body = False
    for line in text.splitlines():
        if not line.startswith("|"):
            is_body = False
        elif re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line):
            is_body = True
        elif is_body:
            yield [cell.strip() for cell in line.strip("|").split("|")]


def coded(cell: str) -> list[str]:
    """List what a table's cell has in code style."""
    return re.findall(r"`([^`]+)`", cell)
