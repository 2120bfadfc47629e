"""The Dockerfile as data: its stages and their instructions."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

from tests.contract.source_code import ROOT

FILE = ROOT / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it begins from, its name, and its instructions in order as (word, rest)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for one, rest in self.steps if one == word]


def stages() -> dict[str, Stage]:
    """Read the stages by name, in the file's order."""
    found: dict[str, Stage] = {}
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text("utf-8"), flags=re.MULTILINE)
    for line in filter(None, re.sub(r"\\\n", " ", text).splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(base, name)
        else:
            found[list(found)[-1]].steps.append((word, " ".join(rest.split())))
    return found


def lineage(name: str) -> list[Stage]:
    """Return a stage and what it builds upon, the lowest first."""
    found = [stages()[name]]
    while found[0].base in stages():
        found.insert(0, stages()[found[0].base])
    return found


def needed(name: str) -> list[Stage]:
    """Return every stage that a target takes something from, in an order in which they can be built."""
    wanted, found = [name], {name}
    while wanted:
        for stage in lineage(wanted.pop()):
            sources = {source for copy in stage.all("COPY") for source in re.findall(r"--from=(\S+)", copy)}
            wanted += sources - found
            found |= {stage.name} | sources
    return [stage for stage in stages().values() if stage.name in found]


def environment(name: str) -> dict[str, str]:
    """Read the variables that an image sets, those of its bases too."""
    words = [word for stage in lineage(name) for rest in stage.all("ENV") for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def last(name: str, word: str) -> str:
    """Return an image's last instruction of this kind: of several only that one counts."""
    return [rest for stage in lineage(name) for rest in stage.all(word)][-1]


def command(name: str) -> list[str]:
    found: list[str] = json.loads(last(name, "CMD"))
    return found


def copies(stage: Stage) -> list[tuple[list[str], str]]:
    """List what a stage copies from the context: sources and target."""
    words = [rest.split() for rest in stage.all("COPY") if not rest.startswith("--from=")]
    return [(one[:-1], one[-1]) for one in words]
