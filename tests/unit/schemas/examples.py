"""The public example resources beside the project, read from their archives; tests skip where they are absent."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path

import pytest

_DATA = Path(__file__).parents[4] / "shared" / "data"


@cache
def examples(archive: str) -> dict[str, bytes]:
    """Read an archive's JSON files by name; an empty dictionary where the archive is absent."""
    path = _DATA / archive
    if not path.exists():
        return {}
    with tarfile.open(path) as files:
        found = {Path(one.name).name: files.extractfile(one) for one in files if one.name.endswith(".json")}
        return {name: file.read() for name, file in sorted(found.items()) if file is not None}


def needs(archive: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (_DATA / archive).exists(), reason=f"{archive} is not in ../shared/data")


OFFICIAL, GERMAN = "r4-examples.tar.xz", "german-examples.tar.xz"
