"""FHIR files on disk as the events a hospital would have published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from connectors.fhir_files.documents import Document, fhir_files, read_documents
from connectors.fhir_files.ordering import TimeSorter
from connectors.fhir_files.resources import bare_event
from connectors.fhir_files.splitting import split_bundle
from connectors.source_event import SourceEvent

__all__ = ["read_events", "total_bytes"]

Progress = Callable[[int], None]


def total_bytes(paths: Iterable[Path]) -> int:
    """Return the size on disk of all FHIR files that `paths` name; raise ConfigurationError as `read_events`."""
    return sum(path.stat().st_size for path in fhir_files(paths))


def read_events(
    paths: Iterable[Path], *, progress: Progress | None = None, skipped: Counter[str] | None = None
) -> Iterator[SourceEvent]:
    """Read FHIR JSON, NDJSON, archives and folders of them as events; content never raises.

    A Bundle is split into one event per Encounter. A file whose first resource is a Bundle is a log of events
    and keeps its order. The bare resources of all other files come last: Patients first, then by time.
    What cannot be parsed becomes an event with an empty key, so that the processor rejects it.

    progress: called with the bytes of disk space consumed since the last call; they add up to `total_bytes`.
    skipped: counts, by type, the resources that are none of the processor's.
    Raises ConfigurationError naming the file that cannot be read.
    """
    counts = Counter[str]() if skipped is None else skipped
    report = progress or (lambda _: None)
    with TimeSorter() as later:
        for path in fhir_files(paths):
            yield from _read_file(path, later, report, counts)
        for event, size in later:
            yield event
            report(size)


def _read_file(path: Path, later: TimeSorter, report: Progress, skipped: Counter[str]) -> Iterator[SourceEvent]:
    left, is_log = path.stat().st_size, False
    for document in read_documents(path):
        left -= document.size
        content = _parse(document)
        kind = content.get("resourceType")
        is_log = kind == "Bundle" if document.is_first else is_log
        if kind == "Bundle":
            yield from split_bundle(document.value, content, skipped)
        elif (event := bare_event(document.value, content, skipped)) and event.key and not is_log:
            later.add(event, document.size, is_patient=kind == "Patient")
            continue
        elif event:
            yield event
        report(document.size)
    report(left)


def _parse(document: Document) -> dict[str, Any]:
    """Parse a document; empty where it is no JSON object."""
    try:
        content = orjson.loads(document.value)
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}
