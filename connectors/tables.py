"""The tables, as SQLAlchemy Core declares them; migrations make them, a test compares all three."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

_TIME = DateTime(timezone=True)

patient_history = Table(
    "patient_history",
    metadata,
    Column("institution", Text, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("revision", BigInteger, nullable=False, comment="counts the batches that changed it"),
    Column("history", LargeBinary, nullable=False, comment="MessagePack, sealed with the institution's key"),
    Column("updated_at", _TIME, nullable=False),
    PrimaryKeyConstraint("institution", "patient_pseudonym"),
    comment="What is known of each patient; readable only with the institution's key.",
)

pseudonym_keys = Table(
    "pseudonym_keys",
    metadata,
    Column("institution", Text, primary_key=True),
    Column("key_id", Text, nullable=False, comment="names the key that its pseudonyms are made with"),
    Column("replaces", Text, comment="the key before it, until its rotation is finished"),
    Column("since", _TIME, nullable=False),
    comment="Which key each institution's pseudonyms and histories are made with; no key can be told from its name.",
)

patient_encounters = Table(
    "patient_encounters",
    metadata,
    Column("institution", Text, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("patient_pseudonym", Uuid, comment="null: deleted before anything else was heard of it"),
    PrimaryKeyConstraint("institution", "encounter_pseudonym"),
    comment="Whose each encounter is, for deletions that name no patient.",
)

risk_scores = Table(
    "risk_scores",
    metadata,
    Column("record_id", Uuid, nullable=False, comment="names this version of the score"),
    Column("institution", Text, nullable=False, comment="the institution's id"),
    Column("patient_pseudonym", Uuid, nullable=False, comment="another one at each institution"),
    Column("encounter_pseudonym", Uuid, nullable=False, comment="the encounter, under a pseudonym"),
    Column("encounter_version", Text, nullable=False, comment="which version of the Encounter was scored"),
    Column("status", Text, nullable=False, comment="final, amended or entered-in-error"),
    Column("inpatient", Boolean, nullable=False, comment="whether it is an inpatient stay by the institution's rules"),
    Column("as_of", _TIME, nullable=False, comment="the time the features hold for"),
    Column("received_at", _TIME, nullable=False, comment="the event's arrival at the broker"),
    Column("scored_at", _TIME, nullable=False, comment="when it was scored"),
    Column("probability", Double, comment="calibrated; null if retracted"),
    Column("band", Text, comment="low, medium or high"),
    Column("baseline", Double, comment="baseline and contributions add up to probability"),
    Column("contributions", JSONB, nullable=False, comment="by feature, how far it moved the probability"),
    Column("features", JSONB),
    Column("feature_set", SmallInteger, nullable=False, comment="version of the features"),
    Column("model_name", Text, nullable=False, comment="the registered model"),
    Column("model_version", Text, nullable=False, comment="its version"),
    Column("model_digest", Text, nullable=False, comment="SHA-256 of its file"),
    Column("supersedes", Uuid, comment="the record that this one replaces"),
    Column("reason", Text, comment="why it replaces it: encounter-updated, history-changed, retracted"),
    Column("topic_id", Uuid, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("superseded_by", Uuid, comment="the record that replaces it; null: this is the newest version"),
    Column("superseded_at", _TIME, comment="when it was replaced"),
    PrimaryKeyConstraint("record_id", "received_at"),
    Index("risk_scores_source", "topic_id", "source_partition", "source_offset"),
    Index("risk_scores_encounter", "encounter_pseudonym"),
    Index(
        "risk_scores_daily",
        "institution",
        "received_at",
        postgresql_include=["inpatient", "band", "probability"],
        postgresql_where=text("superseded_by IS NULL AND status <> 'entered-in-error'"),
    ),
    Index("risk_scores_scored", "institution", "scored_at"),
    comment="Every version of every score; partitioned by month of received_at.",
    postgresql_partition_by="RANGE (received_at)",
)

challenger_scores = Table(
    "challenger_scores",
    metadata,
    Column("record_id", Uuid, nullable=False, comment="the champion's score it stands beside"),
    Column("institution", Text, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("received_at", _TIME, nullable=False),
    Column("scored_at", _TIME, nullable=False),
    Column("probability", Double, nullable=False, comment="calibrated"),
    Column("band", Text, nullable=False, comment="low, medium or high, by the challenger's thresholds"),
    Column("model_name", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    PrimaryKeyConstraint("record_id"),
    Index("challenger_scores_patient", "institution", "patient_pseudonym"),
    comment="What a challenger says beside the champion; never published.",
)

score_outcomes = Table(
    "score_outcomes",
    metadata,
    Column("institution", Text, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("discharged_at", _TIME, nullable=False, comment="when the stay ended"),
    Column("outcome", Text, nullable=False, comment="pending, readmitted or censored, as the history tells"),
    Column("because", Text, comment="why it is censored: same-episode, died, transferred, against-advice"),
    Column("readmitted_at", _TIME, comment="when the next stay began"),
    Column("record_id", Uuid, comment="the score that stood at the discharge; null: nothing scored then"),
    Column("received_at", _TIME, comment="that score's"),
    Column("updated_at", _TIME, nullable=False),
    # Of that score and of the challenger's beside it; a trigger keeps them.
    Column("probability", Double),
    Column("band", Text),
    Column("model_name", Text),
    Column("model_version", Text),
    Column("challenger_probability", Double),
    Column("challenger_band", Text),
    Column("challenger_name", Text),
    Column("challenger_version", Text),
    PrimaryKeyConstraint("institution", "encounter_pseudonym"),
    Index("score_outcomes_discharged", "institution", "discharged_at"),
    comment="What became of each discharged stay; see the view risk_outcomes.",
)

rejected_events = Table(
    "rejected_events",
    metadata,
    Column("topic_id", Uuid, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("institution", Text, nullable=False),
    Column("received_at", _TIME, nullable=False),
    Column("rejected_at", _TIME, nullable=False),
    Column("reason", Text, nullable=False, comment="the first issue's reason code"),
    Column("issues", JSONB, nullable=False, comment='[{"reason", "path"}]'),
    PrimaryKeyConstraint("topic_id", "source_partition", "source_offset"),
    Index("rejected_events_received", "institution", "received_at"),
    comment="Why events were rejected; their bytes are on rejected.<institution> only.",
)

rejection_resolutions = Table(
    "rejection_resolutions",
    metadata,
    Column("topic_id", Uuid, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("resolution", Text, nullable=False, comment="redriven, discarded"),
    Column("resolved_at", _TIME, nullable=False),
    Column("redriven_offset", BigInteger, nullable=True, comment="where it was published again, in the same partition"),
    Column("because", Text, nullable=True, comment="why it was discarded"),
    PrimaryKeyConstraint("topic_id", "source_partition", "source_offset"),
    comment="What became of rejected events; those that are not here are open.",
)

stream_progress = Table(
    "stream_progress",
    metadata,
    Column("topic_id", Uuid, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("institution", Text, nullable=False),
    Column("next_offset", BigInteger, nullable=False, comment="every event below it has been applied"),
    Column("scored", BigInteger, nullable=False, server_default="0"),
    Column("updated", BigInteger, nullable=False, server_default="0"),
    Column("unchanged", BigInteger, nullable=False, server_default="0"),
    Column("retracted", BigInteger, nullable=False, server_default="0"),
    Column("rejected", BigInteger, nullable=False, server_default="0"),
    Column("updated_at", _TIME, nullable=False),
    Column("known_until", _TIME, comment="the latest time that its events tell of, never after their arrival"),
    PrimaryKeyConstraint("topic_id", "source_partition"),
    comment="The fence: how far each partition has been applied, and how its events ended.",
)

intake_stops = Table(
    "intake_stops",
    metadata,
    Column("institution", Text, primary_key=True),
    Column("stopped_at", _TIME, nullable=False),
    Column("rejected_share", Double, nullable=False),
    comment="Institutions whose intake stopped because too many of their events were rejected.",
)

feature_drift_readings = Table(
    "feature_drift_readings",
    metadata,
    Column("institution", Text, nullable=False),
    Column("feature", Text, nullable=False, comment="its name, as in latest_risk"),
    Column("model_name", Text, nullable=False, comment="the champion whose training rows it is measured against"),
    Column("model_version", Text, nullable=False, comment="its version"),
    Column("day", Date, nullable=False, comment="UTC; the day's last reading is kept"),
    Column("measured_at", _TIME, nullable=False, comment="when a worker measured it"),
    Column("stays", Integer, nullable=False, comment="the last discharged stays that it is measured over"),
    Column("psi", Double, nullable=False, comment="population stability index: below 0.1 stable, above 0.25 shifted"),
    PrimaryKeyConstraint("institution", "feature", "model_name", "model_version", "day"),
    comment="How far each feature has moved since training, by day.",
)

worklist_marks = Table(
    "worklist_marks",
    metadata,
    Column("institution", Text, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("acknowledged_record_id", Uuid, comment="the score that somebody has seen"),
    Column("acknowledged_at", _TIME),
    Column("snoozed_until", _TIME, comment="no alerts before"),
    Column("updated_at", _TIME, nullable=False),
    PrimaryKeyConstraint("institution", "encounter_pseudonym"),
    Index("worklist_marks_patient", "institution", "patient_pseudonym"),
    comment="What people have said of encounters on the worklist; alerting honours it.",
)

cds_cards = Table(
    "cds_cards",
    metadata,
    Column("card_id", Uuid, nullable=False),
    Column("institution", Text, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("record_id", Uuid, comment="the stored score it shows; null: it was scored for the card alone"),
    Column("band", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("served_at", _TIME, nullable=False),
    Column("outcome", Text, comment="accepted or overridden; null: nothing heard"),
    Column("override_reason", Text, comment="the code that was chosen; never free text"),
    Column("outcome_at", _TIME),
    PrimaryKeyConstraint("card_id"),
    Index("cds_cards_patient", "institution", "patient_pseudonym"),
    comment="CDS Hooks cards that were shown, and what clinicians did with them.",
)

intake_requests = Table(
    "intake_requests",
    metadata,
    Column("institution", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False, comment="its SHA-256"),
    Column("body_digest", Text, nullable=False, comment="SHA-256 of the request's body"),
    Column("source_partition", Integer, comment="where the event is, once its delivery is confirmed"),
    Column("source_offset", BigInteger),
    Column("requested_at", _TIME, nullable=False),
    Column("delivered_at", _TIME),
    PrimaryKeyConstraint("institution", "idempotency_key"),
    Index("intake_requests_requested", "requested_at"),
    comment="Events that came over HTTP with an Idempotency-Key; kept for a day.",
)

alert_channels = Table(
    "alert_channels",
    metadata,
    Column("institution", Text, nullable=False),
    Column("channel", Text, nullable=False, comment="names a way that people are alerted on"),
    Column("started_at", _TIME, nullable=False, comment="scores from before stand, but are not alerted"),
    PrimaryKeyConstraint("institution", "channel"),
    comment="Since when each channel alerts; its row is locked by whoever decides on it.",
)

alert_standings = Table(
    "alert_standings",
    metadata,
    Column("institution", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("record_id", Uuid, nullable=False, comment="the newest score that the channel has seen"),
    Column("topic_id", Uuid, nullable=False),
    Column("source_partition", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("supersedes", Uuid),
    Column("scored_at", _TIME, nullable=False),
    Column("band", Text, comment="null: nobody is to be alerted of it"),
    Column("probability", Double),
    # The encounter first: without statistics a planner may look up by the others alone, which all rows share.
    PrimaryKeyConstraint("encounter_pseudonym", "institution", "channel"),
    Index("alert_standings_patient", "institution", "patient_pseudonym"),
    comment="What stands of each encounter as a channel has seen it; what is no newer is a repeat.",
)

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", Uuid, nullable=False, comment="made of institution, channel and record_id; sent along"),
    Column("institution", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("encounter_pseudonym", Uuid, nullable=False),
    Column("patient_pseudonym", Uuid, nullable=False),
    Column("record_id", Uuid, nullable=False, comment="the score by which the encounter crossed into the band"),
    Column("known_band", Text, comment="the band that people knew of; null: none that is alerted"),
    Column("band", Text, nullable=False, comment="as sent; until then as it crossed"),
    Column("probability", Double, nullable=False, comment="as band"),
    Column("state", Text, nullable=False, comment="waiting, delivered, refused by the receiver, or left the queue"),
    Column("reason", Text, comment="why it left, was refused, or failed last"),
    Column("decided_at", _TIME, nullable=False),
    Column("due_at", _TIME, nullable=False, comment="not before; later than decided_at after a failure"),
    Column("given_at", _TIME, comment="when it got its place in a day's budget"),
    Column("claimed_until", _TIME, comment="until then one process sends it"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("delivered_at", _TIME),
    PrimaryKeyConstraint("alert_id"),
    Index("alerts_waiting", "institution", "channel", postgresql_where=text("state = 'waiting'")),
    Index("alerts_encounter", "encounter_pseudonym", postgresql_where=text("state = 'waiting'")),
    Index("alerts_given", "institution", "channel", "given_at"),
    Index("alerts_patient", "institution", "patient_pseudonym"),
    comment="An alert for each crossing into a band, and what became of it.",
)

noise_salt = Table(
    "noise_salt",
    metadata,
    Column("salt", Uuid, primary_key=True),
    comment="One row, which keeps the noise in analysts' aggregates from being guessed.",
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("institution", Text, nullable=False, comment="whose data; all: a model, which concerns everybody"),
    Column("sequence", BigInteger, nullable=False, comment="its number in the institution's chain, from 1"),
    Column("recorded_at", _TIME, nullable=False),
    Column("login", Text, nullable=False, comment="of the database, as which it was added"),
    Column("agent", Text, nullable=False, comment="the API's key or session by its hash's beginning, or a login"),
    Column("action", Text, nullable=False),
    Column("subjects", JSONB, nullable=False, comment="records, pseudonyms, events, models; no id of a hospital"),
    Column("outcome", Text, nullable=False, comment="granted, or failed after a change that was not made"),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 of the row before's, the number and the entry"),
    PrimaryKeyConstraint("institution", "sequence"),
    comment="Who looked at what and who changed what; rows can only be added, and a changed one is found.",
)
