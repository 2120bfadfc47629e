"""The consumers of docs/alerting.md: the page's own code, run against the real stack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.kafka_access import client_properties
from connectors.settings import Settings
from schemas.messages import RiskScore
from schemas.topics import TopicFamily, topic_name
from tests.integration.alerting import Scores, Stay
from tests.integration.running import wait_until

pytestmark = pytest.mark.stack

_PAGE = Path(__file__).parents[2] / "docs" / "alerting.md"
_NEEDS = Path(__file__).parent / "consumers"
_INSTITUTION = "embl"
_MOST_LINES = 25


def code_of(language: str) -> str:
    """Return the page's only block of code in a language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```", _PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return str(found)


# --- what makes each of them a command


def _python(folder: Path) -> Sequence[str]:
    (folder / "alerts.py").write_text(code_of("python"), "utf-8")
    return [sys.executable, "alerts.py"]


def _java(folder: Path) -> Sequence[str]:
    _run(
        folder, "mvn", "--batch-mode", "--quiet", f"--file={_NEEDS / 'pom.xml'}",
        "org.apache.maven.plugins:maven-dependency-plugin:2.10:copy-dependencies", "-DincludeScope=runtime",
        f"-DoutputDirectory={folder / 'jars'}",
    )  # fmt: skip
    (folder / "Alerts.java").write_text(code_of("java"), "utf-8")
    _run(folder, "javac", "-Xlint:all", "-Werror", "-cp", "jars/*", "Alerts.java")
    return ["java", "-cp", "jars/*:.", "Alerts"]


def _javascript(folder: Path) -> Sequence[str]:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_NEEDS / name, folder)
    _run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    (folder / "alerts.mjs").write_text(code_of("javascript"), "utf-8")
    return ["node", "alerts.mjs"]


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


LANGUAGES: dict[str, tuple[str, Callable[[Path], Sequence[str]]]] = {
    "python": ("python", _python),
    "java": ("javac", _java),
    "javascript": ("node", _javascript),
}
_IMPORTS = re.compile(r"(import|from) .*")


@dataclass(frozen=True, slots=True)
class Ready:
    """A consumer that is ready to run in a folder."""

    folder: Path
    command: Sequence[str]


@pytest.fixture(scope="module", params=LANGUAGES)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    needs, make = LANGUAGES[request.param]
    if needs != "python" and shutil.which(needs) is None:
        pytest.skip(f"needs {needs}")
    folder = tmp_path_factory.mktemp(request.param)
    return Ready(folder, make(folder))


@pytest.fixture(scope="module")
def scores(own_stack: Settings) -> Scores:
    return Scores(own_stack)


@contextmanager
def running(ready: Ready, settings: Settings) -> Iterator[Callable[[], list[str]]]:
    """Run the consumer, and kill it at the end; what is given returns the lines that it has printed."""
    topic, printed = topic_name(TopicFamily.RISK, _INSTITUTION), ready.folder / "printed"
    with printed.open("wb") as out, (ready.folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*ready.command, settings.kafka_bootstrap_servers, settings.schema_registry_url, topic],
            cwd=ready.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
        )  # fmt: skip
        try:
            yield lambda: printed.read_text("utf-8").splitlines()
        finally:
            process.kill()
            process.wait(10)
    print((ready.folder / "errors").read_text("utf-8")[-3000:])


def line(score: RiskScore) -> str:
    """Say a score as the consumers do."""
    return f"{score.record_id} {score.band or 'withdrawn'} {score.probability or ''}".rstrip()


def test_it_prints_what_is_on_the_topic_without_repeats_and_goes_on_where_it_was(ready: Ready, scores: Scores) -> None:
    stays = [Stay(_INSTITUTION) for _ in range(20)]
    published = [one.scored(band) for band in ("low", "high", None, "medium") for one in stays]
    scores.publish(*published, *published[10:30], *published[:5])
    scores.publish_raw(_INSTITUTION, None)
    expected = sorted(line(one) for one in published)

    def ours(printed: list[str]) -> list[str]:
        ids = {one.record_id for one in published}
        return [text.rstrip() for text in printed if text.split()[0] in ids]

    last = Stay(_INSTITUTION).scored("high", 0.625)
    with running(ready, scores.settings) as printed:
        wait_until("all are printed", lambda: len(ours(printed())) >= len(expected), 90)
        scores.publish(*published[40:50], last)
        wait_until("what follows is printed", lambda: line(last) in printed(), 60)
        assert sorted(ours(printed())) == expected
        assert len(printed()) == len(set(printed()))
        wait_until("all are committed", lambda: committed(scores.settings, ready), 30)
    after = Stay(_INSTITUTION).scored("medium", 0.25)
    scores.publish(after)
    with running(ready, scores.settings) as printed:
        wait_until("what is new is printed", lambda: line(after) in printed(), 90)
        assert printed() == [line(after)]


def committed(settings: Settings, ready: Ready) -> bool:
    """Tell whether the consumer's group has committed all that is on the topic."""
    from confluent_kafka import Consumer, TopicPartition

    from tests.integration.reading import ends_of

    topic, group = topic_name(TopicFamily.RISK, _INSTITUTION), f"ward-{ready.folder.name.rstrip('0123456789')}"
    consumer = Consumer(client_properties(settings) | {"group.id": group})
    try:
        ends = ends_of(settings, topic)
        found = consumer.committed([TopicPartition(topic, partition) for partition in ends], timeout=10)
        return all(max(one.offset, 0) == ends[one.partition] for one in found)
    finally:
        consumer.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_short(language: str) -> None:
    lines = [one for one in code_of(language).splitlines() if one.strip() and not _IMPORTS.match(one)]
    assert len(lines) < _MOST_LINES
