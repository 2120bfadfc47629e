"""Events whose every value that names or describes somebody carries a mark, and looking for the marks anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from connectors.kafka import OutMessage
from schemas.topics import TopicFamily, topic_name
from tests.integration.test_bad_input import bad_events
from tests.unit.schemas.fhir_events import (
    Resource,
    bundle,
    concept,
    condition,
    encounter,
    medication_request,
    patient,
    to_bytes,
)

MARK = "qzxkanarie"
NAME = "Qäzxlöwe"  # what is not ASCII is written in other ways
BIRTH_DATE = "1903-02-17"  # nobody's: a patient of that day would be the oldest of all
_FIRST = datetime(2022, 2, 1, 10, tzinfo=UTC)  # the stays lie in the time that models are trained on
HEADERS = (("hospital-patient", MARK.encode()), (MARK, NAME.encode()), ("tracestate", f"a={MARK}".encode()))


def forms() -> dict[str, bytes]:
    """Return each way that a mark may be written, by name; all in lower case, as `hits` looks for them."""
    found: dict[str, bytes] = {"birth date": BIRTH_DATE.encode(), "birth date, German": b"17.02.1903"}
    found["birth date, Python's"] = b"date(1903, 2, 17)"
    for text in (MARK, NAME):
        for encoding in ("utf-8", "latin-1", "utf-16-le"):
            found[f"{text} in {encoding}"] = text.lower().encode(encoding)
        found[f"{text} in JSON"] = json.dumps(text.lower()).strip('"').encode()
        found[f"{text} in a URL"] = quote(text.lower()).lower().encode()
        for way in (str.lower, str.upper, str):
            found[f"{text} in hexadecimal, {way.__name__}"] = way(text).encode().hex().encode()
        for shift in range(3):  # where in a group of three bytes it begins
            found[f"{text} in Base64 at {shift}"] = _inner_base64(text, shift)
    return found


def _inner_base64(text: str, shift: int) -> bytes:
    # Without the characters that depend on what stands beside.
    data = b"\0" * shift + text.encode()
    whole = base64.b64encode(data[: len(data) // 3 * 3])
    return whole[-(-shift * 4 // 3) :]


_FORMS = forms()


def hits(content: bytes) -> list[str]:
    """Name the forms of marks that bytes hold, in whatever case their letters are."""
    lower = content.lower()
    return [name for name, form in _FORMS.items() if (form in content if "Base64" in name else form.lower() in lower)]


def planted() -> Iterator[tuple[str, bytes]]:
    """Yield marks in each form, as they might stand in a place."""
    for text in (MARK, NAME, BIRTH_DATE):
        yield text, f"a line of {text} among others".encode()
    yield "upper case", MARK.upper().encode()
    yield "JSON", json.dumps({"name": NAME}).encode()
    yield "URL", f"/x?name={quote(NAME)}".encode()
    yield "UTF-16", MARK.encode("utf-16")
    yield "hexadecimal", f"x{MARK}y".encode().hex().encode()
    for shift in range(3):
        yield f"Base64 at {shift}", base64.b64encode(b"." * shift + MARK.encode() + b".and more")


# --- events


def person(number: int) -> str:
    return f"{MARK}-p{number}"


def everything(number: int) -> list[Resource]:
    """Make one resource of each kind about a patient, with all that a sender may tell of them."""
    id_ = person(number)
    human = [{"use": "official", "family": NAME, "given": [MARK], "text": f"{MARK} {NAME}"}]
    address = [{"line": [f"{MARK}-Weg 1"], "city": NAME, "postalCode": MARK}]
    telecom = [{"system": "phone", "value": f"+49 {MARK}"}, {"system": "email", "value": f"{MARK}@example.org"}]
    common: Resource = {
        "identifier": [{"system": f"https://example.org/{MARK}", "value": f"{MARK}-{number}"}],
        "text": {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{MARK} {NAME}</div>'},
        "extension": [{"url": f"https://example.org/{MARK}", "valueString": NAME}],
        "meta": {"versionId": "1", "source": f"https://example.org/{MARK}", "tag": [{"code": MARK, "display": NAME}]},
    }
    note: Resource = {"note": [{"text": f"{MARK}, geboren {BIRTH_DATE}", "authorString": NAME}]}
    code = {"coding": [{"system": f"https://example.org/{MARK}", "code": f"{MARK}-{number % 7}", "display": NAME}]}
    photo = {"contentType": "text/plain", "data": base64.b64encode(f"{MARK} {NAME}".encode()).decode(), "title": MARK}
    stay: Resource = {
        "class_": {"system": f"https://example.org/{MARK}", "code": MARK, "display": NAME}
        if number % 5 == 1
        else "IMP",
        "participant": [{"individual": {"reference": f"Practitioner/{MARK}", "display": NAME}}],
        "location": [{"location": {"reference": f"Location/{MARK}", "display": NAME}}],
        "reasonCode": [{"text": f"{MARK} {NAME}", **code}],
        "hospitalization": {"dischargeDisposition": {"coding": [{"code": MARK, "display": NAME}], "text": NAME}},
        "partOf": {"reference": f"Encounter/{MARK}"} if number % 11 == 1 else None,
        "diagnosis": [{"condition": {"reference": f"Condition/{id_}-c", "display": NAME}}],
    }
    about = {"reference": f"https://example.org/{MARK}/Patient/{id_}", "display": NAME}
    start = _FIRST + timedelta(days=number % 800)
    period = start.isoformat(), (start + timedelta(days=3)).isoformat()
    return [
        patient(
            id_, BIRTH_DATE, name=human, address=address, telecom=telecom, photo=[photo],
            contact=[{"name": human[0], "telecom": telecom, "address": address[0]}],
            generalPractitioner=[{"reference": f"Practitioner/{MARK}", "display": NAME}],
            link=[{"other": {"reference": f"Patient/{person(number // 3)}"}, "type": "seealso"}], **common,
        ),
        encounter(f"{id_}-e", *period, patient=id_, **{**common, **stay, "subject": about}),
        {**condition(f"{id_}-c", **common, **note, subject=about), "code": {**code, "text": NAME}},
        medication_request(
            f"{id_}-m", patient=id_, **common, **note, dosageInstruction=[{"text": f"{MARK} {NAME}"}],
            medicationCodeableConcept=None, medicationReference={"reference": f"Medication/{MARK}", "display": NAME},
        ),
        {"resourceType": "MedicationStatement", "id": f"{id_}-s", "status": "active", **common, **note,
         "subject": about, "medicationCodeableConcept": {"text": f"{MARK} {NAME}"}, "dateAsserted": "2024-01-01"},
        {"resourceType": "MedicationAdministration", "id": f"{id_}-a", "status": "completed", **common, **note,
         "subject": about, "medicationCodeableConcept": code, "effectiveDateTime": "2024-01-02"},
        {"resourceType": "Medication", "id": f"{MARK}-{number}", **common, "code": code},
    ]  # fmt: skip


def message(institution: str, key: str | bytes | None, value: Any) -> OutMessage:
    content = value if value is None or isinstance(value, bytes) else to_bytes(value)
    key = key.encode() if isinstance(key, str) else key
    return OutMessage(topic_name(TopicFamily.ENCOUNTERS, institution), key, content, HEADERS)


def good_events(institution: str, number: int) -> Iterator[OutMessage]:
    """Yield `number` events that are applied: Bundles and single resources, corrected, taken back, deleted, erased."""
    for one in range(number):
        id_, resources = person(one), everything(one)
        key = f"Patient/{id_}"
        singles = [resource for resource in resources if resource["resourceType"] != "Medication"]
        match one % 8:
            case 0 | 1 | 2 | 3:
                yield message(institution, key, bundle(*resources))
            case 4 | 5:
                yield message(institution, key, singles[one // 8 % len(singles)])
            case 6:
                yield message(institution, f"Patient/{person(one - 6)}", _later_stay(one - 6))
            case 7 if one % 16 == 7:
                yield message(institution, f"Encounter/{person(one - 7)}-e", None)
            case _:
                yield message(institution, f"Patient/{person(one - 8)}", None)


def erasures(institution: str, number: int) -> Iterator[OutMessage]:
    """Yield what erases the patients of all these events."""
    names = [*map(person, [*range(number), 9_001, 9_002]), *(f"{MARK}-{one}" for one in ("p1", "cds", "x", "wrong"))]
    names += [f"{MARK}-bad-{one}" for one in ("again", *range(200))]
    for name in names:
        yield message(institution, f"Patient/{name}", None)


def _later_stay(number: int) -> Resource:
    corrected = {**everything(number)[1], "meta": {"versionId": "2"}}
    return bundle(corrected, encounter(f"{person(number)}-later", patient=person(number)))


def refused_events(institution: str) -> Iterator[OutMessage]:
    """Yield events that are rejected for every reason there is, with marks in all that is theirs."""
    for number, bad in enumerate(bad_events()):
        value = bad.message.value
        if value is None:
            yield message(institution, bad.message.key, None)
            continue
        for id_ in ("p1", "e1", "c1", "m1", "bad-again", "bad-dep"):
            value = value.replace(f'"{id_}"'.encode(), f'"{MARK}-{id_}"'.encode())
            value = value.replace(f"/{id_}".encode(), f"/{MARK}-{id_}".encode())
        again = bad.message.key is not None and b"again" in bad.message.key
        yield message(institution, f"Patient/{MARK}-bad-{'again' if again else number}", value)
    yield message(institution, f"Observation/{MARK}", None)
    for number, wrong in enumerate(_wrong()):
        yield message(institution, f"Patient/{MARK}-wrong-{number}", wrong)


def _wrong() -> Iterator[Any]:
    """Yield marks where a value is quoted most easily: in codes, dates, names of elements, references, addresses."""
    id_ = f"{MARK}-wrong"
    yield patient(id_, gender=MARK)
    yield patient(id_, birth_date=f"{BIRTH_DATE}T{MARK}")
    yield {**patient(id_), MARK: NAME, NAME: {MARK: MARK}}
    yield patient(id_, name=[{MARK: NAME}], extension=[{"url": MARK, MARK: 1}])
    yield patient(f"{MARK} {NAME}")
    yield patient(f"{MARK}/{NAME}" * 20)
    yield {"resourceType": MARK, "id": id_, "name": NAME}
    yield {"resourceType": f"Patient/{MARK}", "id": id_}
    yield encounter(id_, patient=f"{MARK} {NAME}")
    yield encounter(id_, start=MARK, end=NAME)
    yield encounter(id_, status=NAME, subject={"reference": f"{MARK}?name={NAME}"})
    yield encounter(id_, class_={"display": MARK, MARK: NAME})
    yield condition(id_, patient=id_, clinicalStatus=concept(MARK, MARK), verificationStatus=concept(NAME))
    yield medication_request(id_, authored=MARK, status=NAME)
    yield bundle(patient(id_), {"fullUrl": f"urn:{MARK}", "resource": {"resourceType": NAME, "id": MARK}})
    yield {"resourceType": "Bundle", "type": MARK, "entry": [{MARK: NAME}]}
    for url in (f"Patient?name={MARK}", f"{MARK}/{NAME}", f"https://{MARK}/Patient/{NAME}", f"Observation/{MARK}"):
        yield {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"request": {"method": "DELETE", "url": url}}],
        }
    yield {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": MARK, "url": NAME}}]}
    yield f'{{"resourceType": "Patient", "{MARK}": 1, "{MARK}": 2}}'.encode()
    yield f'{{"resourceType": "Patient", "id": "{MARK}'.encode()
    yield f"{MARK} {NAME}".encode("latin-1")
    yield f'{{"{MARK}": "\\u0000{MARK}"}}'.encode()
    yield to_bytes({"resourceType": "Patient", "id": id_, "x": f"{MARK}" * 600_000})
