"""One Kafka message, read: the entries it holds and the issues that keep others out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import msgspec

from schemas.history import DELETED, EncounterFacts, Entry, Kind, PatientFacts
from schemas.institutions import Institution
from schemas.intake.event_bytes import Limits, read_json
from schemas.intake.references import full_urls
from schemas.intake.resources import READERS, Setting, read_resource
from schemas.intake.structure import Document, StructureValidator, entry_of, rejects_all
from schemas.rejection import Issue, Reason

# <Type>/<id>, alone or at an address; without the id where a search or a version is meant.
_DELETED = re.compile(rf"(?:^|/)(?P<type>{'|'.join(READERS)})(?:/(?P<id>[^/?]+)$|[/?]|$)")
# Names the offset that a redriven event had when it was first published.
REDRIVEN_OFFSET = "healthalliance.redriven.offset"
# On a patient's tombstone: what becomes of the patient's later events, `refuse` or `accept`; else it stays as it was.
FUTURE = "healthalliance.erasure.future"
_BUNDLE_TYPES = frozenset({"message", "transaction", "batch", "collection", "history"})


class RawEvent(msgspec.Struct, frozen=True, gc=False):
    """A Kafka message as it came; `received_at` is the broker's time of arrival, UTC."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    received_at: datetime
    headers: tuple[tuple[str, bytes], ...] = ()


class ParsedEvent(msgspec.Struct, frozen=True, gc=False):
    """What an event says: patients to erase, entries to fold after that, issues that rejected it or parts of it.

    `unsupported` are issues with what is valid FHIR, but asks for what cannot be done here. `refuse`: whether events
    of the erased patients are refused from here on; None leaves it as it was.
    """

    entries: tuple[Entry, ...] = ()
    issues: tuple[Issue, ...] = ()
    erase: tuple[str, ...] = ()
    unsupported: tuple[Issue, ...] = ()
    refuse: bool | None = None


class OpenedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event after stage 1: its JSON document, or what it comes to without one."""

    raw: RawEvent
    document: dict[str, Any] | ParsedEvent


def open_events(raws: Iterable[RawEvent], limits: Limits) -> list[OpenedEvent]:
    """Take events through stage 1, their bytes; never raises, whatever they are."""
    return [OpenedEvent(raw, _guarded(_open, raw, limits)) for raw in raws]


def documents_of(opened: Iterable[OpenedEvent]) -> list[Document]:
    """List the documents that stage 2, the structure, is to judge."""
    return [(one.raw.value or b"", one.document) for one in opened if isinstance(one.document, dict)]


def read_events(
    opened: Sequence[OpenedEvent], institutions: Iterable[Institution], found: Iterable[list[Issue]]
) -> list[ParsedEvent]:
    """Take events through stage 3, the rules; `found` is what stage 2 said of `documents_of(opened)`."""
    issues = iter(found)
    return [
        _guarded(_read, one.raw, institution, one.document, next(issues))
        if isinstance(one.document, dict)
        else one.document
        for one, institution in zip(opened, institutions, strict=True)
    ]


def parse_events(
    raws: Iterable[RawEvent], institution: Institution, limits: Limits, validate: StructureValidator
) -> list[ParsedEvent]:
    """Take an institution's events through all three stages."""
    opened = open_events(raws, limits)
    return read_events(opened, [institution] * len(opened), validate(documents_of(opened)))


def parse_event(raw: RawEvent, institution: Institution, limits: Limits, validate: StructureValidator) -> ParsedEvent:
    """Take one event through all three stages."""
    return parse_events([raw], institution, limits, validate)[0]


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _guarded(step: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | ParsedEvent:
    try:
        return step(*args, **kwargs)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        # A shape that no stage foresaw must not stop a hospital's partition; it can be redriven once it is.
        return ParsedEvent(issues=(Issue(Reason.UNREADABLE, "", f"Could not be read ({type(error).__name__})."),))


def first_offset(raw: RawEvent) -> int:
    """Return the offset an event was first published with, which is the version of what gives none.

    A redriven event comes long after others that correct it, and must not beat them.
    """
    for name, value in raw.headers:
        if name == REDRIVEN_OFFSET and value.isdigit() and len(value) <= 18:
            return min(int(value), raw.offset)
    return raw.offset


def _open(raw: RawEvent, limits: Limits) -> dict[str, Any] | ParsedEvent:
    """Read an event's bytes as a JSON document of an accepted type, or say what the event comes to without one."""
    if raw.value is None:
        return _parse_tombstone(raw)
    document = read_json(raw.value, limits)
    if isinstance(document, Issue):
        return ParsedEvent(issues=(document,))
    kind = document.get("resourceType")
    if kind != "Bundle" and (not isinstance(kind, str) or kind not in READERS):
        return ParsedEvent(issues=(Issue(Reason.UNSUPPORTED_TYPE, "", f"Accepted are Bundle, {', '.join(READERS)}."),))
    return document


def _read(raw: RawEvent, institution: Institution, document: dict[str, Any], issues: list[Issue]) -> ParsedEvent:
    kind = document["resourceType"]
    if kind == "Bundle":
        return _read_bundle(raw, document, institution, issues)
    if issues:
        return ParsedEvent(issues=tuple(issues))
    setting = Setting(institution, raw.received_at, first_offset(raw))
    return _settle([(read_resource(document, kind, setting, document.get("id")), None)])


def _parse_tombstone(raw: RawEvent) -> ParsedEvent:
    kind, _, id_ = (raw.key or b"").decode("utf-8", "replace").partition("/")
    if id_ and kind == "Patient":
        return ParsedEvent(erase=(id_,), refuse=_refuse(raw))
    if id_ and kind == "Encounter":
        return ParsedEvent(entries=(_deletion(Kind.ENCOUNTER, id_, None, "Encounter"),))
    text = "A null value deletes; its key must be Encounter/<id> or Patient/<id>."
    return ParsedEvent(issues=(Issue(Reason.UNKNOWN_TOMBSTONE, "", text),))


def _refuse(raw: RawEvent) -> bool | None:
    said = next((value for name, value in raw.headers if name == FUTURE), b"")
    return {b"refuse": True, b"accept": False}.get(said)


def _deletion(kind: Kind, id_: str, patient_id: str | None, path: str) -> Entry:
    return Entry(kind, id_, patient_id, path, DELETED, b"", None)


_ReadEntry = tuple[Entry | list[Issue], str | None]  # what came of a Bundle entry; the resource it is, "Type/id"


def _read_bundle(raw: RawEvent, bundle: dict[str, Any], institution: Institution, found: list[Issue]) -> ParsedEvent:
    whole = [issue for issue in found if rejects_all(issue)]
    if whole:
        return ParsedEvent(issues=tuple(whole))
    if bundle.get("type") not in _BUNDLE_TYPES:
        text = f"Accepted Bundle types are {', '.join(sorted(_BUNDLE_TYPES))}."
        return ParsedEvent(issues=(Issue(Reason.UNSUPPORTED_BUNDLE, "Bundle.type", text),))
    # What is no object was found out by its structure; here it only keeps its place.
    entries: list[dict[str, Any]] = [one if isinstance(one, dict) else {} for one in bundle.get("entry", [])]
    setting = Setting(institution, raw.received_at, first_offset(raw), full_urls(entries), _medications(entries))
    by_entry: dict[int, list[Issue]] = {}
    for issue in found:
        by_entry.setdefault(entry_of(issue.path) or 0, []).append(issue)
    read: list[_ReadEntry] = []
    erased: list[str] = []
    unsupported: list[Issue] = []
    for number, entry in enumerate(entries):
        one = _read_entry(entry, number, setting, by_entry.get(number, []), raw.key)
        if isinstance(one, str):
            erased.append(one)
        elif isinstance(one, Issue):
            unsupported.append(one)
        elif one is not None:
            read.append(one)
    return _settle(read, tuple(erased), tuple(unsupported))


def _read_entry(
    entry: dict[str, Any], number: int, setting: Setting, found: list[Issue], key: bytes | None
) -> _ReadEntry | Issue | str | None:
    """Read a Bundle entry; a string is a patient to erase, None an entry that says nothing here."""
    request = entry.get("request")
    if isinstance(request, dict) and request.get("method") == "DELETE":
        return _read_deletion(str(request.get("url")), f"Bundle.entry[{number}]", key)
    resource = entry.get("resource")
    if not isinstance(resource, dict):
        return (found, None) if found else None
    kind = resource.get("resourceType")
    path = f"Bundle.entry[{number}].resource"
    if not isinstance(kind, str) or kind not in READERS:
        unknown = [issue for issue in found if issue.path == path]
        return (unknown, None) if unknown else None
    named = setting.full_urls.get(str(entry.get("fullUrl")))
    id_ = resource.get("id") or (named[1] if named else None)
    name = f"{kind}/{id_}" if id_ else None
    return (found, name) if found else (read_resource(resource, path, setting, id_), name)


def _read_deletion(url: str, path: str, key: bytes | None) -> _ReadEntry | Issue | str | None:
    """Read a Bundle entry that deletes, or say that it cannot be done; other resource types say nothing here."""
    named = _DELETED.search(url)
    if named is None:
        return None
    type_, id_ = named["type"], named["id"]
    if not id_:
        text = f"{path}.request.url: <Type>/<id> is deleted, not what a search finds or one version."
        return Issue(Reason.UNSUPPORTED_DELETE, f"{path}.request.url", text)
    if type_ == "Patient":
        return id_
    patient = (key or b"").decode("utf-8", "replace")
    patient_id = patient.removeprefix("Patient/") if patient.startswith("Patient/") else None
    kind, name = READERS[type_][0], f"{type_}/{id_}"
    if kind is not Kind.ENCOUNTER and patient_id is None:
        text = f"{path}: to delete a {type_} the message's key must name the patient."
        return [Issue(Reason.SUBJECT_UNRESOLVABLE, path, text)], None
    return _deletion(kind, name if kind is Kind.MEDICATION else id_, patient_id, path), name


def _medications(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for entry in entries:
        resource = entry.get("resource")
        if isinstance(resource, dict) and resource.get("resourceType") == "Medication":
            for name in (entry.get("fullUrl"), f"Medication/{resource.get('id')}"):
                if name:
                    found[str(name)] = resource
    return found


def _settle(read: list[_ReadEntry], erase: tuple[str, ...] = (), unsupported: tuple[Issue, ...] = ()) -> ParsedEvent:
    """Part the good entries from the bad, and from those that depend on a bad one; erasing covers deletions."""
    bad = {name for one, name in read if not isinstance(one, Entry) and name}
    entries: list[Entry] = []
    issues: list[Issue] = []
    births = {
        one.id: one.facts.birth_date
        for one, _ in read
        if isinstance(one, Entry) and isinstance(one.facts, PatientFacts) and one.facts.birth_date
    }
    for one, _ in read:
        if not isinstance(one, Entry):
            issues += one
        elif one.version == DELETED and one.patient_id in erase:
            continue
        elif f"Patient/{one.patient_id}" in bad or f"Encounter/{_encounter_of(one)}" in bad:
            text = f"{one.path}: what it depends on was rejected."
            issues.append(Issue(Reason.DEPENDS_ON_REJECTED, one.path, text))
        elif _begins_before(one, births.get(one.patient_id or "")):
            path = f"{one.path}.period.start"
            issues.append(Issue(Reason.BIRTH_DATE_AFTER_ENCOUNTER, path, f"{path}: before the patient's birth."))
        else:
            entries.append(one)
    return ParsedEvent(tuple(entries), tuple(issues), erase, unsupported)


def _encounter_of(entry: Entry) -> str | None:
    return getattr(entry.facts, "encounter", None)


def _begins_before(entry: Entry, birth_date: Any) -> bool:
    started = entry.facts.started if isinstance(entry.facts, EncounterFacts) else None
    # A day's grace: UTC's date may lag the date in the hospital's zone.
    return bool(birth_date and started and (birth_date - started.date()).days > 1)
