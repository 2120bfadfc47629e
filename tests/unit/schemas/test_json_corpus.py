"""Events are read as RFC 8259 has it, held to Nicolas Seriot's JSONTestSuite (https://github.com/nst/JSONTestSuite).

`go mod download` fetches it, at this version and with this hash; without Go or network the test is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from schemas.intake.event_bytes import Limits, read_json
from schemas.rejection import Issue, Reason

_MODULE = "github.com/nst/JSONTestSuite@v0.0.0-20241122125541-1ef36fa01286"
_SUM = "h1:t/cjDwz9uc/5ZSagWtr7nWpoEA5Imvw/ArlJuI+d+Cw="

# What JSON allows and FHIR does not: U+0000 in a string (https://hl7.org/fhir/R4/datatypes.html#string).
_NOT_IN_FHIR = {"y_string_null_escape.json", "y_object_escaped_null_in_key.json"}


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    """Return the files' contents by name; y_…: must be accepted, n_…: must be rejected, i_…: either."""
    if shutil.which("go") is None:
        pytest.skip("needs Go to fetch JSONTestSuite")
    done = subprocess.run(["go", "mod", "download", "-json", _MODULE], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip("JSONTestSuite could not be fetched")
    found = json.loads(done.stdout)
    assert found["Sum"] == _SUM
    return {path.name: path.read_bytes() for path in sorted(Path(found["Dir"], "test_parsing").iterdir())}


def as_member(text: bytes) -> bytes:
    """Put a document where events may hold any: an event itself is an object."""
    return b'{"x":' + text + b"}"


def test_the_corpus_is_the_one_that_is_meant(corpus: dict[str, bytes]) -> None:
    counts = [sum(name.startswith(kind) for name in corpus) for kind in ("y_", "n_", "i_")]
    assert counts == [95, 188, 35]


def test_what_must_be_accepted_is_and_says_the_same(corpus: dict[str, bytes]) -> None:
    for name, text in corpus.items():
        if not name.startswith("y_"):
            continue
        found = read_json(as_member(text), Limits())
        if name in _NOT_IN_FHIR:
            assert isinstance(found, Issue), name
            assert found.reason is Reason.NUL_CHARACTER
        else:
            assert found == {"x": json.loads(text)}, name


def test_what_must_be_rejected_is(corpus: dict[str, bytes]) -> None:
    for name, text in corpus.items():
        if name.startswith("n_"):
            assert isinstance(read_json(text, Limits()), Issue), name
            assert isinstance(read_json(as_member(text), Limits()), Issue), name


def test_what_may_be_either_comes_to_something(corpus: dict[str, bytes]) -> None:
    for name, text in corpus.items():
        if name.startswith("i_"):
            assert isinstance(read_json(as_member(text), Limits()), dict | Issue), name
