"""Snapshots of the feature topics: the same ends give the same bytes, on disk, from an S3 server, and read again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from connectors.feature_topics import read_snapshot
from connectors.kafka import OutMessage, Publisher
from connectors.registry import Registry, to_wire
from connectors.settings import Settings
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import run
from tests.integration.running import Trained
from tests.unit.model_training.stays import pseudonym, stay

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_BUCKET = "snapshots"
_NEW = "an encounter of the snapshots' test"


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 server on this machine, and the variables that lead to it."""

    variables: dict[str, str]

    def names(self) -> list[str]:
        client = boto3.client(
            "s3",
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.variables["AWS_SECRET_ACCESS_KEY"],
            region_name=self.variables["AWS_DEFAULT_REGION"],
        )
        if not any(one["Name"] == _BUCKET for one in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket=_BUCKET)
        return [one["Key"] for one in client.list_objects_v2(Bucket=_BUCKET).get("Contents", ())]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = S3(
        {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    )
    assert found.names() == []
    yield found
    server.stop()


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote and said."""

    folder: Path
    document: dict[str, Any]

    @property
    def rows(self) -> bytes:
        return (self.folder / "features.parquet").read_bytes()


def exported(settings: Settings, folder: Path, *options: object, **variables: str) -> Exported:
    ended = run(settings, "snapshot", "export", folder, "--json", *options, timeout_s=180, **variables)
    assert ended.code == 0, ended.stderr
    return Exported(folder, ended.document)


@pytest.fixture(scope="module")
def first(trained: Trained, tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Exported:
    """Export everything and push it."""
    folder = tmp_path_factory.mktemp("snapshots") / "first"
    remote = {"DVC_REMOTE_URL": f"s3://{_BUCKET}/training", **s3.variables}
    return exported(trained.settings, folder, "--push", **remote)


def test_a_snapshot_says_what_it_is(trained: Trained, first: Exported) -> None:
    assert first.document["digest"] == read_snapshot(trained.settings).digest
    assert set(first.document["rows"]) == set(institutions())
    assert sum(first.document["rows"].values()) == len(read_snapshot(trained.settings).table)
    written = json.loads((first.folder / "snapshot.json").read_text())
    assert written == {name: first.document[name] for name in written}


def test_the_same_ends_give_the_same_bytes(trained: Trained, first: Exported, tmp_path: Path) -> None:
    again = exported(trained.settings, tmp_path)
    assert again.document["digest"] == first.document["digest"]
    assert again.rows == first.rows


def test_one_institutions_snapshot_holds_its_rows_alone(trained: Trained, first: Exported, tmp_path: Path) -> None:
    one = exported(trained.settings, tmp_path, "--institution", "dkfz")
    assert one.document["rows"] == {"dkfz": first.document["rows"]["dkfz"]}
    assert {end["topic"] for end in one.document["ends"]} == {topic_name(TopicFamily.FEATURES, "dkfz")}
    version = (tmp_path / "features.parquet.dvc").read_text()
    exported(trained.settings, tmp_path, "--institution", "embl")
    assert (tmp_path / "features.parquet.dvc").read_text() != version  # into the same folder: its next version


def test_what_was_pushed_comes_back_byte_by_byte(first: Exported, s3: S3) -> None:
    before = first.rows
    assert len(s3.names()) == 1
    (first.folder / "features.parquet").unlink()
    shutil.rmtree(first.folder / ".dvc" / "cache")
    subprocess.run(
        [sys.executable, "-m", "dvc", "pull", "--quiet", "--remote", "healthalliance", "features.parquet.dvc"],
        cwd=first.folder,
        env={"PATH": "/usr/bin:/bin", "DVC_NO_ANALYTICS": "true", **s3.variables},
        check=True,
        timeout=90,
    )
    assert first.rows == before


def test_a_remote_that_takes_nothing_is_named_in_one_line(trained: Trained, tmp_path: Path, s3: S3) -> None:
    remote = {"DVC_REMOTE_URL": "s3://nobody-made-this", **s3.variables}
    ended = run(trained.settings, "snapshot", "export", tmp_path, "-i", "dkfz", "--push", timeout_s=180, **remote)
    assert ended.code == 4
    assert "DVC_REMOTE_URL" in ended.stderr.splitlines()[-1]


def test_pushing_without_a_remote_is_refused_before_anything_is_read(trained: Trained, tmp_path: Path) -> None:
    ended = run(trained.settings, "snapshot", "export", tmp_path / "none", "--push")
    assert (ended.code, (tmp_path / "none").exists()) == (3, False)
    assert "DVC_REMOTE_URL" in ended.stderr


def test_old_ends_are_read_again_whatever_came_since_and_a_tombstone_removes_it(
    trained: Trained, first: Exported, tmp_path: Path
) -> None:
    settings, topic = trained.settings, topic_name(TopicFamily.FEATURES, "embl")
    schema_ids = Registry(settings.schema_registry_url).register_all()
    publisher, key = Publisher(settings), pseudonym(_NEW).encode()
    publisher.publish([OutMessage(topic, key, to_wire(schema_ids[topic], stay(_NEW, 0, 5, institution="embl")))])
    with_it = read_snapshot(settings)
    publisher.publish([OutMessage(topic, key, None)])
    without_it = read_snapshot(settings)

    old = exported(settings, tmp_path, "--like", first.folder / "snapshot.json")
    assert (old.document["digest"], old.rows) == (first.document["digest"], first.rows)
    assert len(with_it.table) == len(without_it.table) + 1 == sum(first.document["rows"].values()) + 1
    assert without_it.content == first.document["content"]
    assert len({first.document["digest"], with_it.digest, without_it.digest}) == 3


def test_a_snapshot_that_the_topics_no_longer_hold_is_not_written(
    trained: Trained, first: Exported, tmp_path: Path
) -> None:
    identity = json.loads((first.folder / "snapshot.json").read_text())
    for name, changed in (
        ("other-content", identity | {"content": "0" * 64}),
        ("other-topic", identity | {"ends": [end | {"topic_id": "another"} for end in identity["ends"]]}),
    ):
        (tmp_path / name).write_text(json.dumps(changed))
        ended = run(trained.settings, "snapshot", "export", tmp_path / "none", "--like", tmp_path / name)
        assert (ended.code, (tmp_path / "none").exists()) == (15, False)
