"""A patient's Bundle as one event per Encounter, in time order."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from typing import Any

import orjson

from connectors.fhir_files.resources import UNDATED, encounter_end, patient_key, resource_time
from connectors.source_event import SourceEvent
from schemas.intake.references import full_urls, resolve
from schemas.intake.resources import READERS

# A message is an event already; any other type is the processor's to refuse.
_SPLIT_TYPES = frozenset({"transaction", "batch", "collection", "history", "searchset"})


@dataclass(frozen=True, slots=True)
class _Part:
    """One entry of the Bundle, reduced to what an event's Bundle may hold, and what places it there.

    ended: of an Encounter, when it was over, as far as it says. encounter: the id of the Encounter that it is or
    names. needs: entries that its references lead to.
    """

    entry: bytes
    kind: str
    id: str
    key: bytes
    at: datetime
    ended: datetime
    encounter: str | None
    needs: tuple[bytes, ...]


def split_bundle(value: bytes, bundle: dict[str, Any], skipped: Counter[str]) -> list[SourceEvent]:
    """Split a Bundle into events: each Encounter with its patient and the clinical resources that name it.

    A clinical resource that names no Encounter of its patient goes with the first one that covers its own time
    or starts after it, else with the last. What only makes sense as a whole stays whole, with its bytes as they
    are: messages, deletions, several versions of a resource, and anything malformed. Other types are counted.
    """
    entries: Any = bundle.get("entry")
    if not _is_splittable(value, bundle, entries):
        return [_whole(value, bundle, entries)]
    urls = full_urls(entries)
    skipped.update(kind for kind in map(_kind, entries) if kind not in READERS and kind not in ("", "Medication"))
    groups: dict[bytes, list[_Part]] = {}
    for part in _of_one_patient_each(_parts(entries, urls)):
        groups.setdefault(part.key, []).append(part)
    return [event for key, parts in groups.items() for event in _patient_events(key, parts)]


def _is_splittable(value: bytes, bundle: dict[str, Any], entries: object) -> bool:
    if str(bundle.get("type")) not in _SPLIT_TYPES or not isinstance(entries, list):
        return False
    if not all(isinstance(one, dict) and isinstance(one.get("resource", {}), dict) for one in entries):
        return False
    methods = [one["request"].get("method") for one in entries if isinstance(one.get("request"), dict)]
    names = Counter((_kind(one), str(one["resource"].get("id") or one.get("fullUrl"))) for one in entries if _kind(one))
    is_odd = any("resource" in one and not _kind(one) for one in entries)
    several_versions = any(count > 1 and kind in READERS for (kind, _), count in names.items())
    return not ("DELETE" in methods or is_odd or several_versions or _loses_content(value, bundle))


def _loses_content(value: bytes, bundle: dict[str, Any]) -> bool:
    # Parsing keeps only one of two equal keys, which would hide the fault; then quotes are missing.
    try:
        return value.count(b'"') + value.count(rb"\u0022") > orjson.dumps(bundle).count(b'"')
    except orjson.JSONEncodeError:  # nested deeper than orjson writes
        return True


def _kind(entry: dict[str, Any]) -> str:
    resource = entry.get("resource")
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    return kind if isinstance(kind, str) else ""


def _whole(value: bytes, bundle: dict[str, Any], entries: object) -> SourceEvent:
    known = [one for one in entries if isinstance(one, dict) and _kind(one)] if isinstance(entries, list) else []
    urls = full_urls(known)
    ours = sorted((one["resource"] for one in known if _kind(one) in READERS), key=_patients_first)
    keys = [key for resource in ours if (key := patient_key(resource, urls))]
    return SourceEvent(keys[0] if keys else _deleted_patient(entries), value, resource_time(bundle))


def _patients_first(resource: dict[str, Any]) -> bool:
    return resource.get("resourceType") != "Patient"


def _deleted_patient(entries: object) -> bytes:
    for one in entries if isinstance(entries, list) else []:
        request = one.get("request") if isinstance(one, dict) else None
        url = request.get("url") if isinstance(request, dict) else None
        if isinstance(url, str) and url.startswith("Patient/"):
            return url.encode("utf-8", "replace")
    return b""


def _parts(entries: list[dict[str, Any]], urls: Mapping[str, tuple[str, str]]) -> list[_Part]:
    by_name = _by_name(entries)
    return [_part(one, urls, by_name) for one in entries if _kind(one) in READERS]


def _by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Index the entries that others may need, by fullUrl and by type and id."""
    found = {}
    for one in entries:
        if (kind := _kind(one)) in ("Medication", "Encounter"):
            found[f"{kind}/{one['resource'].get('id')}"] = found[str(one.get("fullUrl"))] = one
    return found


def _part(entry: dict[str, Any], urls: Mapping[str, tuple[str, str]], by_name: Mapping[str, dict[str, Any]]) -> _Part:
    resource = entry["resource"]
    kind = resource["resourceType"]
    named = urls.get(str(entry.get("fullUrl")), ("", ""))
    id_ = str(resource.get("id") or named[1])
    # A Patient without an id goes by its fullUrl, as in the references to it.
    key = patient_key(resource, urls) or (f"Patient/{id_}".encode() if kind == "Patient" and id_ else b"")
    names = resource.get("encounter") or resource.get("context")
    at = resource_time(resource)
    return _Part(
        entry=_reduced(entry),
        kind=kind,
        id=id_,
        key=key,
        at=at,
        ended=encounter_end(resource) or at,
        encounter=id_ if kind == "Encounter" else resolve(names, "Encounter", urls),
        needs=tuple(_reduced(by_name[name]) for name in _needed(resource) if name in by_name),
    )


def _needed(resource: dict[str, Any]) -> Iterable[str]:
    medication, whole = resource.get("medicationReference"), resource.get("partOf")
    if isinstance(medication, dict):
        yield str(medication.get("reference"))
    # A urn means nothing outside its Bundle, and a part of a stay must not be taken for a stay.
    if isinstance(whole, dict) and str(whole.get("reference")).startswith("urn:"):
        yield str(whole.get("reference"))


def _reduced(entry: dict[str, Any]) -> bytes:
    # Of a transaction's entry, `request` is not allowed in a collection (bdl-3).
    return orjson.dumps({name: entry[name] for name in ("fullUrl", "resource") if name in entry})


def _of_one_patient_each(parts: list[_Part]) -> list[_Part]:
    """Give parts without a readable subject the key of their Encounter, else of the Bundle's only patient."""
    keys = {part.key for part in parts if part.key}
    only = keys.pop() if len(keys) == 1 else b""
    of_encounter = {part.encounter: part.key for part in parts if part.kind == "Encounter"}
    return [part if part.key else replace(part, key=of_encounter.get(part.encounter) or only) for part in parts]


def _patient_events(key: bytes, parts: list[_Part]) -> list[SourceEvent]:
    patients = [part for part in parts if part.kind == "Patient"]
    encounters = sorted((part for part in parts if part.kind == "Encounter"), key=lambda part: (part.at, part.id))
    clinical = [part for part in parts if part.kind not in ("Patient", "Encounter")]
    if not encounters:
        return [_event(key, [*patients, *clinical], max((part.at for part in clinical), default=UNDATED))]
    held: list[list[_Part]] = [[] for _ in encounters]
    numbers = {part.id: number for number, part in enumerate(encounters)}
    # The ends as a staircase that only rises: the first step not below a time is the first Encounter to end after it.
    ends = list(accumulate((part.ended for part in encounters), max))
    for part in clinical:
        number = numbers.get(part.encounter or "")
        held[min(bisect_left(ends, part.at), len(ends) - 1) if number is None else number].append(part)
    return [_event(key, [*patients, one, *own], one.at) for one, own in zip(encounters, held, strict=True)]


def _event(key: bytes, parts: list[_Part], at: datetime) -> SourceEvent:
    # Two prescriptions may need one Medication.
    entries = dict.fromkeys([*(part.entry for part in parts), *(needed for part in parts for needed in part.needs)])
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [*map(orjson.Fragment, entries)]}
    return SourceEvent(key, orjson.dumps(bundle), at)
