"""Keep the score of a discharge in its outcome, so that judging months of scores looks none of them up.

Rows that are there already are filled in the same transaction: workers wait meanwhile.
A rollback to a release before it leaves all of this, though its revision says that it is not there: everything here may
be run again.
"""

from alembic import op

from connectors.migrations.versions.m0008_judged_scores import VIEWS as EARLIER_VIEWS

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = {
    "probability": "double precision",
    "band": "text",
    "model_name": "text",
    "model_version": "text",
    "challenger_probability": "double precision",
    "challenger_band": "text",
    "challenger_name": "text",
    "challenger_version": "text",
}

# A trigger, so that the release before keeps them too while both run. It finds the tables where the session does.
_FILLED = """
CREATE OR REPLACE FUNCTION fill_outcome_score() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    SELECT probability, band, model_name, model_version
    INTO NEW.probability, NEW.band, NEW.model_name, NEW.model_version
    FROM risk_scores WHERE record_id = NEW.record_id AND received_at = NEW.received_at;
    SELECT probability, band, model_name, model_version
    INTO NEW.challenger_probability, NEW.challenger_band, NEW.challenger_name, NEW.challenger_version
    FROM challenger_scores WHERE record_id = NEW.record_id;
    RETURN NEW;
END $$
"""
_TRIGGER = """
DROP TRIGGER IF EXISTS outcome_score ON score_outcomes;
CREATE TRIGGER outcome_score BEFORE INSERT OR UPDATE OF record_id ON score_outcomes
FOR EACH ROW EXECUTE FUNCTION fill_outcome_score()
"""
_FILL = f"""
UPDATE score_outcomes AS stay SET ({", ".join(_COLUMNS)}) =
    (score.probability, score.band, score.model_name, score.model_version,
     challenger.probability, challenger.band, challenger.model_name, challenger.model_version)
FROM risk_scores AS score
LEFT JOIN challenger_scores AS challenger ON challenger.record_id = score.record_id
WHERE score.record_id = stay.record_id AND score.received_at = stay.received_at
  AND stay.model_name IS NULL
"""

# Hours, since 30 days are longer or shorter where a session's time zone changes its clocks meanwhile.
_FOLLOW_UP = "interval '720 hours'"
_JUDGED = "interval '2880 hours'"
# Has each institution's stays of the window found by their index; the planner would read those of all years, since it
# cannot know how few of them are asked for.
_EACH = "OFFSET 0"
# 10, 5, 3 and 2 groups are all made of these.
_PARTS = 30
# Rows are sorted by a model's number, and its names, the same in all of them, taken from any.
_NAMES = ", ".join(f"min({name}) AS {name}" for name in ("institution", "model_name", "model_version", "role"))

_VIEWS = f"""
CREATE OR REPLACE VIEW risk_outcomes AS
SELECT stay.institution, stay.encounter_pseudonym, stay.patient_pseudonym, stay.discharged_at,
       CASE WHEN stay.outcome = 'pending' AND stay.discharged_at + {_FOLLOW_UP} <= known.until
            THEN 'not-readmitted' ELSE stay.outcome END AS outcome,
       stay.because, stay.readmitted_at,
       coalesce(stay.discharged_at + {_FOLLOW_UP} <= known.until, false) AS matured,
       known.until AS known_until,
       stay.record_id, stay.received_at, stay.probability, stay.band, stay.model_name, stay.model_version,
       stay.challenger_probability, stay.challenger_band, stay.challenger_name, stay.challenger_version
FROM score_outcomes AS stay
LEFT JOIN (SELECT institution, max(known_until) AS until FROM stream_progress GROUP BY institution) AS known
       USING (institution);

CREATE OR REPLACE VIEW judged_outcomes AS
WITH stay AS MATERIALIZED (
    SELECT told.*
    FROM (SELECT institution, max(known_until) AS until FROM stream_progress GROUP BY institution) AS known
    CROSS JOIN LATERAL (
        SELECT *, (outcome = 'readmitted')::integer AS readmitted FROM score_outcomes
        WHERE score_outcomes.institution = known.institution AND outcome <> 'censored'
          AND discharged_at > known.until - {_JUDGED} AND discharged_at <= known.until - {_FOLLOW_UP}
        {_EACH}
    ) AS told
), scored AS MATERIALIZED (
    SELECT institution, model_name, model_version, 'champion' AS role, probability, record_id, discharged_at,
           readmitted
    FROM stay WHERE probability IS NOT NULL
    UNION ALL
    SELECT institution, challenger_name, challenger_version, 'challenger', challenger_probability, record_id,
           discharged_at, readmitted
    FROM stay WHERE challenger_probability IS NOT NULL
), model AS (
    SELECT row_number() OVER () AS number, * FROM (
        SELECT DISTINCT institution, model_name, model_version, role FROM scored
    ) AS told
)
SELECT institution, model_name, model_version, role, scored.probability, scored.record_id, scored.discharged_at,
       scored.readmitted, model.number AS model
FROM scored JOIN model USING (institution, model_name, model_version, role);

CREATE OR REPLACE VIEW model_performance_exact AS
WITH ranked AS (
    SELECT *, rank() OVER (PARTITION BY model ORDER BY probability)
              + (count(*) OVER (PARTITION BY model, probability) - 1) / 2.0 AS place
    FROM judged_outcomes
), summed AS (
    SELECT {_NAMES},
           count(*) AS outcomes,
           sum(readmitted) AS readmitted,
           avg(readmitted)::double precision AS observed_share,
           avg(probability) AS mean_probability,
           avg((probability - readmitted) ^ 2) AS brier,
           sum(place * readmitted) AS places,
           min(discharged_at) AS first_discharge,
           max(discharged_at) AS last_discharge
    FROM ranked GROUP BY model
)
SELECT institution, model_name, model_version, role, outcomes, readmitted, observed_share, mean_probability,
       observed_share / nullif(mean_probability, 0) AS calibration_ratio, brier,
       ((places - readmitted * (readmitted + 1) / 2.0)
        / nullif(readmitted * (outcomes - readmitted), 0))::double precision AS auroc,
       first_discharge, last_discharge
FROM summed;

CREATE OR REPLACE VIEW model_calibration AS
WITH placed AS (
    SELECT *, row_number() OVER (PARTITION BY model ORDER BY probability, record_id) - 1 AS place,
           count(*) OVER (PARTITION BY model) AS number
    FROM judged_outcomes
), parts AS (
    SELECT model, {_NAMES}, place * {_PARTS} / number AS part,
           count(*) AS outcomes, sum(readmitted) AS readmitted, sum(probability) AS probabilities
    FROM placed GROUP BY model, part
), grouped AS (
    SELECT institution, model_name, model_version, role, groups, (part * groups / {_PARTS} + 1)::integer AS risk_group,
           sum(outcomes)::bigint AS outcomes, sum(readmitted)::bigint AS readmitted,
           sum(probabilities) / sum(outcomes)::double precision AS mean_probability,
           (sum(readmitted) / sum(outcomes))::double precision AS observed_share
    FROM parts CROSS JOIN (VALUES (10), (5), (3), (2)) AS tried(groups)
    GROUP BY 1, 2, 3, 4, 5, 6
), judged_groups AS (
    SELECT *, bool_and(readmitted >= 10 AND outcomes - readmitted >= 10)
                  OVER (PARTITION BY institution, model_name, model_version, role, groups) AS told
    FROM grouped
), ranked AS (
    SELECT *, max(groups) FILTER (WHERE told)
                  OVER (PARTITION BY institution, model_name, model_version, role) AS finest
    FROM judged_groups
)
SELECT institution, model_name, model_version, role, risk_group, outcomes, readmitted, mean_probability, observed_share
FROM ranked WHERE groups = finest;

DROP VIEW IF EXISTS judged_scores;
"""


def upgrade() -> None:
    """Add the columns, fill them, keep them, and let the views read them."""
    for name, type_ in _COLUMNS.items():
        op.execute(f"ALTER TABLE score_outcomes ADD COLUMN IF NOT EXISTS {name} {type_}")
    for statement in (_FILL, _FILLED, *_TRIGGER.split(";\n"), *_VIEWS.split(";\n")):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Let the views look scores up again."""
    for statement in EARLIER_VIEWS.split(";\n"):
        if statement.strip():
            op.execute(statement)
    op.execute("DROP VIEW judged_outcomes")
    op.execute("DROP TRIGGER outcome_score ON score_outcomes")
    op.execute("DROP FUNCTION fill_outcome_score")
    for name in _COLUMNS:
        op.execute(f"ALTER TABLE score_outcomes DROP COLUMN {name}")
