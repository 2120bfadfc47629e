"""Give analysts a role of their own, views that tell of no small group, and the drift of features."""

from alembic import op

from connectors.migrations.versions.m0003_outcomes import VIEWS as EARLIER_VIEWS

revision = "0006"
down_revision = "0004"
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

# One index finds all versions of an encounter, not the standing one only; the other holds all that the days count.
_TABLES = """
CREATE TABLE feature_drift_readings (
    institution text NOT NULL,
    feature text NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    day date NOT NULL,
    measured_at timestamptz NOT NULL,
    stays integer NOT NULL,
    psi double precision NOT NULL,
    PRIMARY KEY (institution, feature, model_name, model_version, day)
);

DROP INDEX risk_scores_latest;
CREATE INDEX risk_scores_encounter ON risk_scores (encounter_pseudonym);
CREATE INDEX risk_scores_daily ON risk_scores (institution, received_at) INCLUDE (inpatient, band, probability)
    WHERE superseded_by IS NULL AND status <> 'entered-in-error';
"""

_NUMBERS = "\n       ".join(f"(one.features->>'{name}')::double precision AS {name}," for name in _FEATURES)

_SMALL = "BETWEEN 1 AND 9"

_VIEWS = f"""
ALTER VIEW institution_daily_risk RENAME TO institution_daily_risk_exact;

CREATE VIEW institution_daily_risk AS
SELECT institution, day,
       CASE WHEN encounters >= 10 THEN encounters END AS encounters,
       CASE WHEN stays_told THEN inpatient_stays END AS inpatient_stays,
       CASE WHEN bands_told THEN high END AS high,
       CASE WHEN bands_told THEN medium END AS medium,
       CASE WHEN bands_told THEN low END AS low,
       CASE WHEN encounters >= 10 THEN mean_probability END AS mean_probability
FROM (SELECT *,
             encounters >= 10 AND inpatient_stays NOT {_SMALL} AND encounters - inpatient_stays NOT {_SMALL}
                 AS stays_told,
             encounters >= 10 AND high NOT {_SMALL} AND medium NOT {_SMALL} AND low NOT {_SMALL} AS bands_told
      FROM institution_daily_risk_exact) AS counted;

ALTER VIEW model_performance RENAME TO model_performance_exact;

CREATE VIEW model_performance AS
SELECT institution, model_name, model_version, role,
       CASE WHEN outcomes >= 10 THEN outcomes END AS outcomes,
       CASE WHEN told THEN readmitted END AS readmitted,
       CASE WHEN told THEN observed_share END AS observed_share,
       CASE WHEN outcomes >= 10 THEN mean_probability END AS mean_probability,
       CASE WHEN told THEN calibration_ratio END AS calibration_ratio,
       CASE WHEN told THEN brier END AS brier,
       CASE WHEN told THEN auroc END AS auroc,
       CASE WHEN outcomes >= 10 THEN first_discharge END AS first_discharge,
       CASE WHEN outcomes >= 10 THEN last_discharge END AS last_discharge
FROM (SELECT *, readmitted >= 10 AND outcomes - readmitted >= 10 AS told FROM model_performance_exact) AS measured;

CREATE VIEW model_calibration AS
WITH known AS (
    SELECT institution, max(known_until) AS until FROM stream_progress GROUP BY institution
), judged AS (
    SELECT one.* FROM risk_outcomes AS one JOIN known USING (institution)
    WHERE one.matured AND one.outcome <> 'censored'
      AND one.discharged_at > known.until - interval '2880 hours'
), scored AS (
    SELECT institution, model_name, model_version, 'champion' AS role, probability, record_id,
           (outcome = 'readmitted')::integer AS readmitted
    FROM judged WHERE probability IS NOT NULL
    UNION ALL
    SELECT institution, challenger_name, challenger_version, 'challenger', challenger_probability, record_id,
           (outcome = 'readmitted')::integer
    FROM judged WHERE challenger_probability IS NOT NULL
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY institution, model_name, model_version, role
                                 ORDER BY probability, record_id) - 1 AS place,
           count(*) OVER (PARTITION BY institution, model_name, model_version, role) AS number
    FROM scored
), grouped AS (
    SELECT institution, model_name, model_version, role, groups, (place * groups / number + 1)::integer AS risk_group,
           count(*) AS outcomes, sum(readmitted) AS readmitted,
           avg(probability) AS mean_probability, avg(readmitted)::double precision AS observed_share
    FROM placed CROSS JOIN (VALUES (10), (5), (3), (2)) AS tried(groups)
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

CREATE VIEW risk_history AS
SELECT one.institution, one.encounter_pseudonym, one.patient_pseudonym,
       (SELECT count(*) FROM risk_scores AS earlier
        WHERE earlier.institution = one.institution AND earlier.encounter_pseudonym = one.encounter_pseudonym
          AND (earlier.scored_at, earlier.source_offset) <= (one.scored_at, one.source_offset)) AS version,
       one.record_id, one.status, one.reason, one.encounter_version, one.inpatient, one.as_of, one.received_at,
       one.scored_at, one.probability, one.band,
       one.probability - before.probability AS probability_change,
       before.probability AS previous_probability, before.band AS previous_band,
       before.received_at AS previous_received_at,
       one.baseline, one.contributions,
       {_NUMBERS}
       one.feature_set, one.model_name, one.model_version, one.supersedes, one.superseded_by, one.superseded_at
FROM risk_scores AS one
LEFT JOIN risk_scores AS before
    ON before.record_id = one.supersedes AND before.institution = one.institution
    AND before.encounter_pseudonym = one.encounter_pseudonym;

CREATE VIEW feature_drift_daily AS
SELECT institution, feature, model_name, model_version, day, measured_at, stays, psi FROM feature_drift_readings;

CREATE VIEW feature_drift AS
SELECT DISTINCT ON (institution, feature) institution, feature, model_name, model_version, measured_at, stays, psi
FROM feature_drift_readings ORDER BY institution, feature, measured_at DESC;

CREATE VIEW institution_daily_rejections AS
SELECT institution, (received_at AT TIME ZONE 'UTC')::date AS day, reason,
       CASE WHEN count(*) >= 10 THEN count(*) END AS rejected
FROM rejected_events GROUP BY 1, 2, 3;

CREATE VIEW institution_events AS
SELECT institution, scored, updated, unchanged, retracted, rejected,
       rejected::double precision / nullif(scored + updated + unchanged + retracted + rejected, 0) AS rejected_share,
       known_until
FROM (SELECT institution, round(sum(scored), -1)::bigint AS scored, round(sum(updated), -1)::bigint AS updated,
             round(sum(unchanged), -1)::bigint AS unchanged, round(sum(retracted), -1)::bigint AS retracted,
             round(sum(rejected), -1)::bigint AS rejected, max(known_until) AS known_until
      FROM stream_progress GROUP BY institution) AS rounded;
"""

# Roles belong to the cluster: another database's migration may have made it, and some services let nobody make one.
# Called at each migration, so that a role made later by hand gets its rights too.
_ROLE = """
CREATE FUNCTION grant_analysts() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'analyst') THEN
        BEGIN
            CREATE ROLE analyst NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'The role analyst is missing; whoever may make roles makes it: CREATE ROLE analyst';
                RETURN;
        END;
    END IF;
    GRANT SELECT ON latest_risk, risk_history, risk_outcomes, institution_daily_risk, model_performance,
        model_calibration, feature_drift, feature_drift_daily, institution_daily_rejections, institution_events
        TO analyst;
END $$;
"""

_REVOKE = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'analyst') THEN
        REVOKE SELECT ON latest_risk FROM analyst;
    END IF;
END $$
"""


def upgrade() -> None:
    """Make the table, the indexes, the views and the role."""
    for statement in (*_TABLES.split(";\n"), *_VIEWS.split(";\n"), _ROLE, "SELECT grant_analysts()"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them; the role stays, other databases of the cluster may have it too."""
    op.execute("DROP FUNCTION grant_analysts")
    op.execute(
        "DROP VIEW institution_events, institution_daily_rejections, feature_drift, feature_drift_daily, risk_history, "
        "model_calibration, model_performance, model_performance_exact, institution_daily_risk"
    )
    op.execute("DROP VIEW IF EXISTS judged_scores")  # of a later migration, which leaves it
    op.execute("DROP VIEW risk_outcomes")
    for statement in EARLIER_VIEWS.split(";\n"):
        if statement.strip():
            op.execute(statement)
    op.execute("ALTER VIEW institution_daily_risk_exact RENAME TO institution_daily_risk")
    op.execute(_REVOKE)
    op.execute("DROP INDEX IF EXISTS rejected_events_received")
    op.execute("DROP INDEX risk_scores_daily, risk_scores_encounter")
    op.execute(
        "CREATE INDEX risk_scores_latest ON risk_scores (institution, encounter_pseudonym) WHERE superseded_by IS NULL"
    )
    op.execute("DROP TABLE feature_drift_readings")
