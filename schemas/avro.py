"""The Avro schemas of the output topics: released ones in `schemas/avro_schemas`, generated from `schemas.messages`.

python -m schemas.avro write    releases a new version where a record has changed
python -m schemas.avro check    fails where a release is missing or cannot read the one before it
"""

from __future__ import annotations

import io
import json
import struct
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastavro
from fastavro.types import Schema

from schemas.errors import IncompatibleSchemaError
from schemas.messages import EncounterFeatures, RiskScore

RECORDS: dict[str, type] = {"RiskScore": RiskScore, "EncounterFeatures": EncounterFeatures}

_FOLDER = Path(__file__).parent / "avro_schemas"


def released(record: str) -> list[Path]:
    """List a record's released schema files, oldest first."""
    return sorted(_FOLDER.glob(f"{record}.v*.avsc"), key=lambda path: int(path.suffixes[0][2:]))


@cache
def schema_text(record: str) -> str:
    """Return a record's newest released schema, as JSON text."""
    return released(record)[-1].read_text("utf-8")


@cache
def _parsed(record: str) -> Schema:
    return fastavro.parse_schema(json.loads(schema_text(record)))


def encode(record: RiskScore | EncounterFeatures) -> bytes:
    """Write a record in Avro's binary encoding, without schema or header."""
    out = io.BytesIO()
    features: object = record.features and vars(record.features)
    if isinstance(record, RiskScore) and features:
        features = ("org.healthalliance.Features", features)  # names the union's branch, which spares its search
    values = vars(record) | {"features": features}
    fastavro.schemaless_writer(out, _parsed(type(record).__name__), values)
    return out.getvalue()


def decode(record: str, data: bytes, writer: Schema | None = None) -> dict[str, Any]:
    """Read a record's values; `writer` is the parsed schema they were written with, by default the newest.

    Raises ValueError for bytes that are no such record.
    """
    try:
        values = fastavro.schemaless_reader(io.BytesIO(data), writer or _parsed(record), _parsed(record))
    except (EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"The bytes are no {record} ({type(error).__name__}).") from error
    assert isinstance(values, dict)
    return values


def plain(schema: Any) -> Any:
    """Return a schema, as JSON values, without logical types: its times are read as numbers.

    >>> plain({"type": "long", "logicalType": "timestamp-micros"})
    'long'
    """
    if isinstance(schema, dict):
        return schema["type"] if "logicalType" in schema else {name: plain(value) for name, value in schema.items()}
    return [plain(value) for value in schema] if isinstance(schema, list) else schema


def generate(record: str) -> str:
    """Generate a record's schema from its class."""
    import py_avro_schema as pas

    options = pas.Option.JSON_INDENT_2 | pas.Option.NO_AUTO_NAMESPACE
    return pas.generate(RECORDS[record], namespace="org.healthalliance", options=options).decode() + "\n"


def check() -> None:
    """Compare releases with the code and with each other; raise IncompatibleSchemaError for the first fault."""
    for record in RECORDS:
        files = released(record)
        if not files or files[-1].read_text("utf-8") != generate(record):
            raise IncompatibleSchemaError(f"{record} has changed; release it with `python -m schemas.avro write`.")
        texts = [path.read_text("utf-8") for path in files]
        for before, after in pairwise(texts):
            require_backward_compatible(record, before, after)


def write() -> list[Path]:
    """Release a new version of each record that has changed; refuse one that cannot read its forerunner's data."""
    _FOLDER.mkdir(exist_ok=True)
    written = []
    for record in RECORDS:
        files, text = released(record), generate(record)
        if files and files[-1].read_text("utf-8") == text:
            continue
        if files:
            require_backward_compatible(record, files[-1].read_text("utf-8"), text)
        path = _FOLDER / f"{record}.v{len(files) + 1}.avsc"
        path.write_text(text, "utf-8")
        written.append(path)
    return written


def require_backward_compatible(record: str, before: str, after: str) -> None:
    """Raise IncompatibleSchemaError unless a reader with schema `after` can read data written with `before`."""
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
    from avro.schema import parse

    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # the package is half typed
    result = checker.get_compatibility(reader=parse(after), writer=parse(before))
    if result.compatibility is not SchemaCompatibilityType.compatible:
        raise IncompatibleSchemaError(f"{record}: {'; '.join(sorted(result.messages))}")


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["write"]:
            print(*write(), sep="\n")
        check()
        print("The Avro schemas are current.")
    except IncompatibleSchemaError as error:
        sys.exit(f"{error}")
