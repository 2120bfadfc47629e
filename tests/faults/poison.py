"""Bad events of every kind among good ones: each is rejected once with its code, and the good ones do not wait."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle
from random import Random
from typing import Any

from connectors.source_event import SourceEvent
from healthalliance.demo import latencies_ms
from healthalliance.progress import fetch
from healthalliance.publishing import Ledger as Times
from schemas.intake.event_bytes import Limits
from schemas.rejection import Reason
from tests.faults.load import Keyed
from tests.faults.oracle import names_of
from tests.faults.trial import Trial
from tests.integration.test_bad_input import bad_events
from tests.unit.schemas.fhir_events import bundle, encounter, to_bytes

_SHARE = 0.01
_BLOCKS = 20  # without and with poison in turn
_WARMING_UP = 2  # blocks that are not compared: a worker's first events wait longer
_POISON = "poison: "
_AT = datetime(2022, 1, 1, tzinfo=UTC)
_IN_SEQUENCE = (Reason.VERSION_CONFLICT, Reason.DELETED_BEFORE)  # wrong only after what came before


def poisoned(events: Iterator[Keyed], trial: Trial) -> Iterator[Keyed]:
    """Put poison into every other block of the events, as much as is its share of all of them."""
    block, kinds = max(1, trial.events // _BLOCKS), cycle(_kinds(trial.rng))
    for number, (id_, event) in enumerate(events):
        yield id_, event
        if number // block % 2 and trial.rng.random() < 2 * _SHARE:
            yield id_, next(kinds)


def right_codes_and_no_delay(trial: Trial) -> dict[str, int]:
    """Compare each poison's code, and the good events' latency with and without poison among them."""
    expected = {
        place: one.fault.removeprefix(_POISON)
        for place, one in trial.ledger.confirmed.items()
        if one.fault and one.fault.startswith(_POISON)
    }
    names = names_of(trial.settings)
    rows = fetch(trial.settings, "SELECT topic_id, source_partition, source_offset, reason FROM rejected_events")
    found = {
        (names[str(row["topic_id"])], row["source_partition"], row["source_offset"]): row["reason"] for row in rows
    }
    wrong = sum(found.get(place) != reason for place, reason in expected.items())
    clean, mixed = (_p99_ms(trial, odd) for odd in (0, 1))
    trial.figures |= {"poisons": len(expected), "p99_clean_ms": clean, "p99_ms": mixed, "p99_ratio": mixed / clean}
    found_wrong = {"poison without its code": wrong, "loads without poison": int(not expected)}
    return {name: number for name, number in found_wrong.items() if number}


def _p99_ms(trial: Trial, odd: int) -> float:
    block, times = max(1, trial.events // _BLOCKS), Times()
    in_order = sorted(trial.ledger.confirmed.items(), key=lambda item: item[1].number)
    good = 0
    for place, one in in_order:
        if one.fault is None or not one.fault.startswith(_POISON):
            if good // block >= _WARMING_UP and good // block % 2 == odd:
                times.published_at[place] = one.handed_over
            good += 1
    return latencies_ms(trial.settings, times)["p99"]


def _kinds(rng: Random) -> list[SourceEvent]:
    kinds = [
        SourceEvent(one.message.key or b"", one.message.value, _AT, _POISON + one.reason)
        for one in bad_events()
        if one.reason and one.reason not in _IN_SEQUENCE
    ]
    more: dict[bytes, Reason] = {
        b" " * 10_000_000: Reason.TOO_LARGE,
        b'{"a":' * 500_000: Reason.TOO_DEEP,
        b'{"a": "' + b'\\"' * 500_000: Reason.NOT_JSON,
        to_bytes({**encounter("poison"), **{f"x{number}": number for number in range(100_000)}}): Reason.TOO_WIDE,
        to_bytes(encounter("poison"))[:-1] + b', "a": 1' * 100_000 + b"}": Reason.DUPLICATE_KEY,
        to_bytes(encounter("poison"))[:-1] + b', "a": ' + b"9" * 500_000 + b"}": Reason.NOT_JSON,
        _bad_bundle(Limits().max_entries): Reason.STRUCTURE,
        _bad_bundle(20_000): Reason.TOO_MANY_ENTRIES,
        to_bytes(encounter("poison", period=_before_christ())): Reason.INVALID_DATE,
        b"\x00\x00\x00\x00\x07\x02\x0a\x0bpoison": Reason.NUL_CHARACTER,  # Avro in a registry's wire format
        b"\xff" + bytes(rng.randint(1, 255) for _ in range(1000)): Reason.NOT_UTF8,
    }
    kinds += [SourceEvent(b"Patient/poison", value, _AT, _POISON + reason) for value, reason in more.items()]
    rng.shuffle(kinds)
    return kinds


def _bad_bundle(entries: int) -> bytes:
    return to_bytes(bundle(*({"resourceType": "Encounter", "id": "poison"} for _ in range(entries))))


def _before_christ() -> dict[str, Any]:
    return {"start": "0000-01-01T00:00:00Z", "end": "0000-01-02T00:00:00Z"}
