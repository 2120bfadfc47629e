"""Compare what is in PostgreSQL and on the topics with what must be there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import numpy as np

from connectors.kafka import end_offsets, topic_ids
from connectors.models import load, load_champion
from connectors.registry import Registry
from connectors.settings import Settings
from healthalliance.progress import OUTCOMES, fetch
from schemas.history import PatientHistory, decode_history
from schemas.institutions import institutions
from schemas.messages import RiskScore
from schemas.model import Model, probabilities
from schemas.pseudonyms import institution_keys
from schemas.readmission import StayOutcome
from schemas.topics import TopicFamily, institution_of, topic_names
from tests.faults.fault_free import FaultFree, fault_free, read
from tests.faults.load import Ledger, Place


@dataclass(frozen=True)
class Verdict:
    """What an oracle found; all but the first five must be 0.

    published: confirmed by the broker; unconfirmed: published without an answer, so they may be there or not.
    repeats: messages on `risk` and `rejected` beyond the first of each record.
    """

    published: int
    unconfirmed: int
    scores: int
    rejected: int
    repeats: int
    lost_at_broker: int
    lost_events: int
    lost_scores: int
    doubled_or_foreign_scores: int
    wrong_scores: int
    stale_scores: int
    wrong_latest: int
    wrong_histories: int
    lost_rejections: int
    doubled_or_foreign_rejections: int
    wrong_rejections: int
    lost_on_risk: int
    foreign_on_risk: int
    repeats_that_differ: int
    out_of_order: int
    lost_on_rejected: int
    foreign_on_rejected: int
    wrong_on_features: int
    wrong_outcomes: int
    wrong_challenger_scores: int

    @property
    def repeat_share(self) -> float:
        """Repeats by the messages without them."""
        return self.repeats / max(1, self.scores + self.rejected)

    def violations(self) -> dict[str, int]:
        """Return what should be 0 and is not."""
        allowed = ("published", "unconfirmed", "scores", "rejected", "repeats")
        return {name: number for name, number in asdict(self).items() if number and name not in allowed}


def judge(settings: Settings, ledger: Ledger) -> Verdict:
    """Read everything there is and compare it with the fault-free run of the same events."""
    names = names_of(settings)
    rows = [dict(row) for row in fetch(settings, _SCORES)]
    by_id = {str(row["record_id"]): row for row in rows}
    expected = fault_free(settings, _model_of(settings, names, rows))
    latest = {id_ for id_, one in expected.scores.items() if one.status != "entered-in-error"}
    risk, on_rejected = _on_risk(settings), _on_rejected(settings)
    rejected_rows = _rejected_rows(settings, names)
    return Verdict(
        published=len(ledger.confirmed),
        unconfirmed=ledger.unconfirmed,
        scores=len(expected.scores),
        rejected=len(expected.rejected),
        repeats=risk.repeats + sum(on_rejected.values()) - len(on_rejected),
        lost_at_broker=sum(expected.digests.get(place) != one.digest for place, one in ledger.confirmed.items()),
        lost_events=abs(len(expected.digests) - _applied(settings)),
        lost_scores=len(expected.scores.keys() - by_id.keys()),
        doubled_or_foreign_scores=len(by_id.keys() - expected.scores.keys()) + len(rows) - len(by_id),
        wrong_scores=sum(not _same(by_id[id_], one) for id_, one in expected.scores.items() if id_ in by_id),
        stale_scores=sum(
            _text(row["superseded_by"]) != expected.superseded.get(id_)
            for id_, row in by_id.items()
            if id_ in expected.scores
        ),
        wrong_latest=len(
            (latest - expected.superseded.keys()) ^ {str(row["record_id"]) for row in fetch(settings, _LATEST)}
        ),
        wrong_histories=_wrong_histories(settings, expected),
        lost_rejections=len(expected.rejected.keys() - rejected_rows.keys()),
        doubled_or_foreign_rejections=len(rejected_rows.keys() - expected.rejected.keys()),
        wrong_rejections=sum(
            rejected_rows[place] != list(reasons)
            for place, reasons in expected.rejected.items()
            if place in rejected_rows
        ),
        lost_on_risk=len(expected.scores.keys() - risk.first.keys()),
        foreign_on_risk=len(risk.first.keys() - expected.scores.keys() - expected.erased),
        repeats_that_differ=risk.differ,
        out_of_order=risk.out_of_order,
        lost_on_rejected=len(expected.rejected.keys() - on_rejected.keys()),
        foreign_on_rejected=len(on_rejected.keys() - expected.rejected.keys() - expected.erased_rejections),
        wrong_on_features=_wrong_on_features(settings, expected),
        wrong_outcomes=_wrong_outcomes(settings, expected),
        wrong_challenger_scores=_wrong_challenger_scores(settings, expected),
    )


def names_of(settings: Settings) -> dict[str, str]:
    """Return the encounter topics' names by their ids."""
    ids = topic_ids(settings, topic_names(TopicFamily.ENCOUNTERS))
    return {id_: name for name, id_ in ids.items()}


def _model_of(settings: Settings, names: dict[str, str], rows: Iterable[dict[str, Any]]) -> Callable[[Place], Model]:
    """Return which model an event's rows name; where it has none, it does not matter."""
    champion = load_champion(settings)
    version_of = {
        (names[str(row["topic_id"])], row["source_partition"], row["source_offset"]): row["model_version"]
        for row in rows
    }

    @cache
    def model(version: str) -> Model:
        if version == champion.version:
            return champion
        return load(f"models:/{settings.model_name}@version-{version}", settings)

    return lambda place: model(version_of.get(place, champion.version))


def _applied(settings: Settings) -> int:
    total = " + ".join(OUTCOMES)
    return int(
        fetch(settings, f"SELECT coalesce(sum({total}), 0)::bigint AS applied FROM stream_progress")[0]["applied"]
    )


def _same(row: dict[str, Any], one: RiskScore) -> bool:
    return bool(
        row["probability"] == one.probability
        and json.loads(row["contributions"]) == one.contributions
        and row["status"] == one.status
        and row["reason"] == one.reason
        and _text(row["supersedes"]) == one.supersedes
        and row["encounter_version"] == one.encounter_version
        and str(row["encounter_pseudonym"]) == one.encounter_pseudonym
        and row["model_version"] == one.model_version
        and row["source_offset"] == one.source_offset
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _wrong_histories(settings: Settings, expected: FaultFree) -> int:
    secret = settings.pseudonym_key.get_secret_value()
    keys = {id_: institution_keys(secret, id_) for id_ in institutions()}
    held: dict[tuple[str, str], PatientHistory] = {}
    for row in fetch(settings, "SELECT institution, patient_pseudonym::text, history FROM patient_history"):
        key = (row["institution"], row["patient_pseudonym"])
        held[key] = decode_history(keys[key[0]].unseal(row["history"], key[1]))
    wanted = {key: history for key, one in expected.histories.items() if (history := _kept(one)) != PatientHistory()}
    held = {key: history for key, one in held.items() if (history := _kept(one)) != PatientHistory()}
    return sum(held.get(key) != wanted.get(key) for key in held.keys() | wanted.keys())


def _kept(history: PatientHistory) -> PatientHistory:
    """Leave out what only says whose tombstones may be sent again, which `healthalliance erase` clears away."""
    return msgspec.structs.replace(history, erased=())


def _rejected_rows(settings: Settings, names: dict[str, str]) -> dict[Place, list[str]]:
    rows = fetch(settings, "SELECT topic_id::text, source_partition, source_offset, issues FROM rejected_events")
    return {
        (names[row["topic_id"]], row["source_partition"], row["source_offset"]): [
            issue["reason"] for issue in json.loads(row["issues"])
        ]
        for row in rows
    }


def _on_rejected(settings: Settings) -> Counter[Place]:
    found: Counter[Place] = Counter()
    ends = end_offsets(settings, topic_names(TopicFamily.REJECTED))
    for message in read(settings, ends):
        given: Any = message.headers() or ()
        headers = {name: value.decode("utf-8", "replace") for name, value in given}
        found[
            headers["__connect.errors.topic"],
            int(headers["__connect.errors.partition"]),
            int(headers["__connect.errors.offset"]),
        ] += 1
    return found


@dataclass
class _OnRisk:
    first: dict[str, bytes] = field(default_factory=dict)  # record id → digest of its first message's content
    repeats: int = 0
    differ: int = 0
    out_of_order: int = 0


def _on_risk(settings: Settings) -> _OnRisk:
    """Read the risk topics as a consumer that drops repeats by `record_id` and minds the order for each patient."""
    found, registry = _OnRisk(), Registry(settings.schema_registry_url)
    newest: dict[tuple[str, bytes], tuple[int, int]] = {}
    for message in read(settings, end_offsets(settings, topic_names(TopicFamily.RISK))):
        value = message.value()
        if value is None:
            continue
        one = registry.decode("RiskScore", value)
        # The content, not the bytes: a map's entries may come in another order.
        content = blake2b(json.dumps(one, sort_keys=True, default=str).encode(), digest_size=16).digest()
        if one["record_id"] in found.first:
            found.repeats += 1
            found.differ += found.first[one["record_id"]] != content
            continue
        found.first[one["record_id"]] = content
        patient = str(message.topic()), message.key() or b""
        source = one["source_partition"], one["source_offset"]
        found.out_of_order += source < newest.get(patient, source)
        newest[patient] = source
    return found


def _wrong_on_features(settings: Settings, expected: FaultFree) -> int:
    """Compare the newest message of each key, which is what compaction leaves and training reads."""
    registry = Registry(settings.schema_registry_url)
    newest: dict[tuple[str, str], bytes | None] = {}
    for message in read(settings, end_offsets(settings, topic_names(TopicFamily.FEATURES))):
        newest[institution_of(str(message.topic())), (message.key() or b"").decode()] = message.value()
    wrong = 0
    for key in newest.keys() | expected.features.keys():
        value, wanted = newest.get(key), expected.features.get(key)
        found = None if value is None else registry.decode("EncounterFeatures", value)
        wrong += found != (None if wanted is None else _plain(wanted))
    return wrong


def _wrong_outcomes(settings: Settings, expected: FaultFree) -> int:
    names = [name for name in StayOutcome.__struct_fields__ if name != "received_at"]
    held = {
        (row["institution"], str(row["encounter_pseudonym"])): [_comparable(row[name]) for name in names]
        for row in fetch(settings, "SELECT * FROM score_outcomes")
    }
    wanted = {key: [_comparable(getattr(row, name)) for name in names] for key, row in expected.outcomes.items()}
    return sum(held.get(key) != wanted.get(key) for key in held.keys() | wanted.keys())


def _comparable(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _wrong_challenger_scores(settings: Settings, expected: FaultFree) -> int:
    """Count those beside no score with features, and those that their model does not give; which were to be there
    depends on when a worker saw the alias.
    """
    rows = fetch(settings, "SELECT record_id::text AS record, model_version, probability FROM challenger_scores")
    models = {
        version: load(f"models:/{settings.model_name}@version-{version}", settings)
        for version in {row["model_version"] for row in rows}
    }
    wrong = 0
    for row in rows:
        score = expected.scores.get(row["record"])
        if score is None or score.features is None:
            wrong += 1
            continue
        [probability] = probabilities(models[row["model_version"]], np.array([score.features.vector()], np.float32))
        wrong += abs(float(probability) - row["probability"]) > 1e-12
    return wrong


def _plain(message: Any) -> dict[str, Any]:
    return {**vars(message), "features": vars(message.features)}


_SCORES = """
SELECT record_id, probability, contributions, status, reason, supersedes, superseded_by, encounter_version,
       encounter_pseudonym, model_version, topic_id, source_partition, source_offset
FROM risk_scores
"""
_LATEST = "SELECT record_id FROM latest_risk"
