"""Note what became of stays, what a challenger says of them, and how both models do."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE challenger_scores (
    record_id uuid NOT NULL,
    institution text NOT NULL,
    patient_pseudonym uuid NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    received_at timestamptz NOT NULL,
    scored_at timestamptz NOT NULL,
    probability double precision NOT NULL CHECK (probability BETWEEN 0 AND 1),
    band text NOT NULL CHECK (band IN ('low', 'medium', 'high')),
    model_name text NOT NULL,
    model_version text NOT NULL,
    model_digest text NOT NULL,
    PRIMARY KEY (record_id)
);
CREATE INDEX challenger_scores_patient ON challenger_scores (institution, patient_pseudonym);

CREATE TABLE score_outcomes (
    institution text NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    patient_pseudonym uuid NOT NULL,
    discharged_at timestamptz NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('pending', 'readmitted', 'censored')),
    because text CHECK (because IN ('same-episode', 'died', 'transferred', 'against-advice')),
    readmitted_at timestamptz,
    record_id uuid,
    received_at timestamptz,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (institution, encounter_pseudonym)
);
CREATE INDEX score_outcomes_discharged ON score_outcomes (institution, discharged_at);

ALTER TABLE stream_progress ADD COLUMN known_until timestamptz;
"""

# Hours, since 30 days are longer or shorter where a session's time zone changes its clocks meanwhile.
_FOLLOW_UP = "interval '720 hours'"
_WINDOW = "interval '2160 hours'"

# The views' parts that a later migration keeps.
OUTCOMES = f"""
SELECT stay.institution, stay.encounter_pseudonym, stay.patient_pseudonym, stay.discharged_at,
       CASE WHEN stay.outcome = 'pending' AND stay.discharged_at + {_FOLLOW_UP} <= known.until
            THEN 'not-readmitted' ELSE stay.outcome END AS outcome,
       stay.because, stay.readmitted_at,
       coalesce(stay.discharged_at + {_FOLLOW_UP} <= known.until, false) AS matured,
       known.until AS known_until,
       stay.record_id, stay.received_at, score.probability, score.band, score.model_name, score.model_version,
       challenger.probability AS challenger_probability, challenger.band AS challenger_band,
       challenger.model_name AS challenger_name, challenger.model_version AS challenger_version
FROM score_outcomes AS stay
LEFT JOIN (SELECT institution, max(known_until) AS until FROM stream_progress GROUP BY institution) AS known
       USING (institution)
"""
MEASURES = """
ranked AS (
    SELECT *, rank() OVER (PARTITION BY institution, model_name, model_version, role ORDER BY probability)
              + (count(*) OVER (PARTITION BY institution, model_name, model_version, role, probability) - 1) / 2.0
              AS place
    FROM {scored}
), summed AS (
    SELECT institution, model_name, model_version, role,
           count(*) AS outcomes,
           sum(readmitted) AS readmitted,
           avg(readmitted)::double precision AS observed_share,
           avg(probability) AS mean_probability,
           avg((probability - readmitted) ^ 2) AS brier,
           sum(place * readmitted) AS places,
           min(discharged_at) AS first_discharge,
           max(discharged_at) AS last_discharge
    FROM ranked GROUP BY institution, model_name, model_version, role
)
SELECT institution, model_name, model_version, role, outcomes, readmitted, observed_share, mean_probability,
       observed_share / nullif(mean_probability, 0) AS calibration_ratio, brier,
       ((places - readmitted * (readmitted + 1) / 2.0)
        / nullif(readmitted * (outcomes - readmitted), 0))::double precision AS auroc,
       first_discharge, last_discharge
FROM summed
"""

VIEWS = f"""
CREATE VIEW risk_outcomes AS {OUTCOMES}
LEFT JOIN risk_scores AS score ON score.record_id = stay.record_id AND score.received_at = stay.received_at
LEFT JOIN challenger_scores AS challenger ON challenger.record_id = stay.record_id;

CREATE VIEW model_performance AS
WITH judged AS (
    SELECT * FROM risk_outcomes
    WHERE matured AND outcome <> 'censored' AND discharged_at + {_FOLLOW_UP} > known_until - {_WINDOW}
), scored AS (
    SELECT institution, model_name, model_version, 'champion' AS role, probability, discharged_at,
           (outcome = 'readmitted')::integer AS readmitted
    FROM judged WHERE probability IS NOT NULL
    UNION ALL
    SELECT institution, challenger_name, challenger_version, 'challenger', challenger_probability, discharged_at,
           (outcome = 'readmitted')::integer
    FROM judged WHERE challenger_probability IS NOT NULL
), {MEASURES.format(scored="scored")};
"""


def upgrade() -> None:
    """Make the tables and views."""
    for statement in (*_TABLES.split(";\n"), *VIEWS.split(";\n")):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP VIEW model_performance, risk_outcomes")
    op.execute("ALTER TABLE stream_progress DROP COLUMN known_until")
    op.execute("DROP TABLE score_outcomes")
    op.execute("DROP TABLE challenger_scores")
