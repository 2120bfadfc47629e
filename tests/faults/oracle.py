"""Compare what is in PostgreSQL and on the topics with what must be there."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from connectors.kafka import end_offsets, topic_ids
from connectors.models import load_champion
from connectors.registry import Registry
from connectors.settings import Settings
from healthalliance.progress import OUTCOMES, fetch
from healthalliance.publishing import Ledger
from schemas.history import PatientHistory, decode_history
from schemas.institutions import institutions
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, topic_names
from tests.faults.fault_free import FaultFree, Place, fault_free, read


@dataclass(frozen=True)
class Verdict:
    """What an oracle found; all but the first four and `repeats` must be 0.

    published: confirmed by the broker; repeats: messages on `risk` and `rejected` beyond the first of each record.
    """

    published: int
    scores: int
    rejected: int
    repeats: int
    lost_at_broker: int
    lost_events: int
    lost_scores: int
    doubled_or_foreign_scores: int
    wrong_scores: int
    stale_scores: int
    wrong_histories: int
    lost_rejections: int
    doubled_or_foreign_rejections: int
    lost_on_risk: int
    foreign_on_risk: int
    repeats_that_differ: int
    lost_on_rejected: int
    foreign_on_rejected: int
    out_of_order: int

    @property
    def repeat_share(self) -> float:
        """Repeats by the messages without them."""
        return self.repeats / max(1, self.scores + self.rejected)

    def violations(self) -> dict[str, int]:
        """Return what should be 0 and is not."""
        allowed = ("published", "scores", "rejected", "repeats")
        return {name: number for name, number in asdict(self).items() if number and name not in allowed}


def judge(settings: Settings, ledger: Ledger) -> Verdict:
    """Read everything there is and compare it with the fault-free run of the same events."""
    expected = fault_free(settings, load_champion(settings))
    rows = {str(row["record_id"]): dict(row) for row in fetch(settings, _SCORES)}
    number_of_rows = fetch(settings, "SELECT count(*) AS rows FROM risk_scores")[0]["rows"]
    risk = _on_risk(settings)
    rejected_rows = _rejected_rows(settings)
    on_rejected = _on_rejected(settings)
    return Verdict(
        published=len(ledger.published_at),
        scores=len(expected.scores),
        rejected=len(expected.rejected),
        repeats=risk.repeats + sum(on_rejected.values()) - len(on_rejected),
        lost_at_broker=_lost_at_broker(settings, ledger),
        lost_events=abs(expected.events - _applied(settings)),
        lost_scores=len(expected.scores.keys() - rows.keys()),
        doubled_or_foreign_scores=len(rows.keys() - expected.scores.keys()) + number_of_rows - len(rows),
        wrong_scores=sum(not _same(rows[id_], one) for id_, one in expected.scores.items() if id_ in rows),
        stale_scores=sum(
            _text(row["superseded_by"]) != expected.superseded.get(id_)
            for id_, row in rows.items()
            if id_ in expected.scores
        ),
        wrong_histories=_wrong_histories(settings, expected),
        lost_rejections=len(expected.rejected - rejected_rows),
        doubled_or_foreign_rejections=len(rejected_rows - expected.rejected),
        lost_on_risk=len(expected.scores.keys() - risk.first.keys()),
        foreign_on_risk=len(risk.first.keys() - expected.scores.keys()),
        repeats_that_differ=risk.differ,
        lost_on_rejected=len(expected.rejected - on_rejected.keys()),
        foreign_on_rejected=len(on_rejected.keys() - expected.rejected),
        out_of_order=risk.out_of_order,
    )


def _lost_at_broker(settings: Settings, ledger: Ledger) -> int:
    ends = end_offsets(settings.kafka_bootstrap_servers, topic_names(TopicFamily.ENCOUNTERS))
    return sum(offset >= ends[topic, partition] for topic, partition, offset in ledger.published_at)


def _applied(settings: Settings) -> int:
    total = " + ".join(OUTCOMES)
    return int(
        fetch(settings, f"SELECT coalesce(sum({total}), 0)::bigint AS applied FROM stream_progress")[0]["applied"]
    )


def _same(row: dict[str, Any], one: Any) -> bool:
    return bool(
        row["probability"] == one.probability
        and row["status"] == one.status
        and row["reason"] == one.reason
        and _text(row["supersedes"]) == one.supersedes
        and row["encounter_version"] == one.encounter_version
        and str(row["encounter_pseudonym"]) == one.encounter_pseudonym
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
    both = held.keys() | expected.histories.keys()
    return sum(held.get(key) != expected.histories.get(key) for key in both)


def _rejected_rows(settings: Settings) -> set[Place]:
    topics = topic_names(TopicFamily.ENCOUNTERS)
    name_of = {id_: name for name, id_ in topic_ids(settings.kafka_bootstrap_servers, topics).items()}
    rows = fetch(settings, "SELECT topic_id::text, source_partition, source_offset FROM rejected_events")
    return {(name_of[row["topic_id"]], row["source_partition"], row["source_offset"]) for row in rows}


def _on_rejected(settings: Settings) -> Counter[Place]:
    found: Counter[Place] = Counter()
    ends = end_offsets(settings.kafka_bootstrap_servers, topic_names(TopicFamily.REJECTED))
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
    first: dict[str, bytes]  # record id → digest of its first message's content
    repeats: int = 0
    differ: int = 0
    out_of_order: int = 0


def _on_risk(settings: Settings) -> _OnRisk:
    """Read the risk topics as a consumer that drops repeats by `record_id` and minds the order for each patient."""
    found, registry = _OnRisk({}), Registry(settings.schema_registry_url)
    newest: dict[tuple[str, bytes], tuple[int, int]] = {}
    for message in read(settings, end_offsets(settings.kafka_bootstrap_servers, topic_names(TopicFamily.RISK))):
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


_SCORES = """
SELECT record_id, probability, status, reason, supersedes, superseded_by, encounter_version, encounter_pseudonym,
       source_offset
FROM risk_scores
"""
