"""Make the first tables, their month partitions and the analysts' views."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FEATURES = (
    "age_years",
    "gender_encoded",
    "num_conditions",
    "num_medications",
    "recent_encounters",
    "prior_inpatient_stays_365d",
    "prior_emergency_visits_180d",
    "length_of_stay_days",
    "emergency_admission",
)

_TABLES = """
CREATE TABLE patient_history (
    institution text NOT NULL,
    patient_pseudonym uuid NOT NULL,
    revision bigint NOT NULL,
    history bytea NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (institution, patient_pseudonym)
) WITH (fillfactor = 70);
-- Ciphertext does not compress; trying costs time.
ALTER TABLE patient_history ALTER COLUMN history SET STORAGE EXTERNAL;

CREATE TABLE patient_encounters (
    institution text NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    patient_pseudonym uuid,
    PRIMARY KEY (institution, encounter_pseudonym)
);

CREATE TABLE risk_scores (
    record_id uuid NOT NULL,
    institution text NOT NULL,
    patient_pseudonym uuid NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    encounter_version text NOT NULL,
    status text NOT NULL CHECK (status IN ('final', 'amended', 'entered-in-error')),
    inpatient boolean NOT NULL,
    as_of timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    scored_at timestamptz NOT NULL,
    probability double precision CHECK (probability BETWEEN 0 AND 1),
    band text CHECK (band IN ('low', 'medium', 'high')),
    baseline double precision,
    contributions jsonb NOT NULL,
    features jsonb,
    feature_set smallint NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    model_digest text NOT NULL,
    supersedes uuid,
    reason text,
    topic_id uuid NOT NULL,
    source_partition integer NOT NULL,
    source_offset bigint NOT NULL,
    superseded_by uuid,
    superseded_at timestamptz,
    PRIMARY KEY (record_id, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX risk_scores_source ON risk_scores (topic_id, source_partition, source_offset);
CREATE INDEX risk_scores_latest ON risk_scores (institution, encounter_pseudonym) WHERE superseded_by IS NULL;
CREATE TABLE risk_scores_other PARTITION OF risk_scores DEFAULT;

CREATE TABLE rejected_events (
    topic_id uuid NOT NULL,
    source_partition integer NOT NULL,
    source_offset bigint NOT NULL,
    institution text NOT NULL,
    received_at timestamptz NOT NULL,
    rejected_at timestamptz NOT NULL,
    reason text NOT NULL,
    issues jsonb NOT NULL,
    PRIMARY KEY (topic_id, source_partition, source_offset)
);

CREATE TABLE stream_progress (
    topic_id uuid NOT NULL,
    source_partition integer NOT NULL,
    topic text NOT NULL,
    institution text NOT NULL,
    next_offset bigint NOT NULL,
    scored bigint NOT NULL DEFAULT 0,
    updated bigint NOT NULL DEFAULT 0,
    unchanged bigint NOT NULL DEFAULT 0,
    retracted bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (topic_id, source_partition)
) WITH (fillfactor = 50);

CREATE TABLE intake_stops (
    institution text PRIMARY KEY,
    stopped_at timestamptz NOT NULL,
    rejected_share double precision NOT NULL
);
"""

# Called by workers at start and every hour, so that a month's partition is there before its first score.
_PARTITIONS = """
CREATE FUNCTION ensure_risk_score_partitions(from_day date, months integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', from_day);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_risk_score_partitions'));
    FOR i IN 0 .. months - 1 LOOP
        IF to_regclass('risk_scores_' || to_char(month, 'YYYY_MM')) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF risk_scores FOR VALUES FROM (%L) TO (%L)',
                'risk_scores_' || to_char(month, 'YYYY_MM'),
                to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00'
            );
        END IF;
        month := month + interval '1 month';
    END LOOP;
END $$;
"""

_VIEWS = f"""
CREATE VIEW latest_risk AS
SELECT institution, encounter_pseudonym, patient_pseudonym, encounter_version, inpatient, as_of, received_at,
       scored_at, probability, band, baseline, contributions,
       {", ".join(f"(features->>'{name}')::double precision AS {name}" for name in _FEATURES)},
       feature_set, model_name, model_version, record_id
FROM risk_scores
WHERE superseded_by IS NULL AND status <> 'entered-in-error';

CREATE VIEW institution_daily_risk AS
SELECT institution, (received_at AT TIME ZONE 'UTC')::date AS day,
       count(*) AS encounters,
       count(*) FILTER (WHERE inpatient) AS inpatient_stays,
       count(*) FILTER (WHERE band = 'high') AS high,
       count(*) FILTER (WHERE band = 'medium') AS medium,
       count(*) FILTER (WHERE band = 'low') AS low,
       avg(probability) AS mean_probability
FROM latest_risk
GROUP BY institution, day;
"""


def upgrade() -> None:
    """Make everything."""
    for statement in (*_TABLES.split(";\n"), _PARTITIONS, *_VIEWS.split(";\n")):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop everything."""
    op.execute("DROP VIEW institution_daily_risk, latest_risk")
    op.execute("DROP FUNCTION ensure_risk_score_partitions")
    for table in (
        "intake_stops",
        "stream_progress",
        "rejected_events",
        "risk_scores",
        "patient_encounters",
        "patient_history",
    ):
        op.execute(f"DROP TABLE {table}")
