"""Show each role the rows of its institutions only, and in aggregates no patient, not even by comparing two moments.

A rollback to a release before it leaves all of this, though its revision says that it is not there: everything here may
be run again.
"""

from alembic import op

from connectors.migrations.versions import m0006_analysts

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Without the salt nobody can work out the noise from a guess at what was counted.
_SALT = """
CREATE TABLE IF NOT EXISTS noise_salt (
    salt uuid NOT NULL,
    PRIMARY KEY (salt)
);

INSERT INTO noise_salt SELECT gen_random_uuid() WHERE NOT EXISTS (SELECT FROM noise_salt);
"""

# Roles belong to the cluster: another database's migration may have made them, and some services let nobody make one.
# Whoever owns the tables is in all roles that it may read for.
_MAKE_ROLES = """
CREATE OR REPLACE FUNCTION make_roles(names text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'The role % is missing; whoever may make roles makes it: CREATE ROLE %', name, name;
                CONTINUE;
        END;
        IF starts_with(name, 'institution_') OR name = 'one_institution' THEN
            BEGIN
                IF NOT pg_has_role(current_user, name, 'USAGE') THEN
                    EXECUTE format('GRANT %I TO %I', name, current_user);
                END IF;
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE NOTICE 'Whoever may grants the role %: GRANT % TO %', name, name, current_user;
            END;
        END IF;
    END LOOP;
END $$
"""

# Who asks is `current_user`, in a view too whose owner reads for others. The setting narrows and never widens.
_READABLE = """
CREATE OR REPLACE FUNCTION readable_institutions() RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    SELECT coalesce(array_agg(one.institution), '{}')
    FROM (SELECT substr(rolname::text, 13) AS institution FROM pg_roles
          WHERE starts_with(rolname::text, 'institution_') AND pg_has_role(current_user, oid, 'USAGE')) AS one
    WHERE one.institution = coalesce(nullif(current_setting('healthalliance.institution', true), ''), one.institution)
$$
"""

# Called at each migration, and changes what is not so yet: tables that are new, or were restored under another owner.
# A batch begins with stream_progress: whoever has locked it waits for none that has begun.
_PROTECT = """
CREATE OR REPLACE FUNCTION protect_rows() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one record;
    served boolean := EXISTS (SELECT FROM pg_roles WHERE rolname = 'one_institution');
    held name[];
BEGIN
    FOR one IN
        SELECT c.oid, c.oid::regclass::text AS name, c.relowner, c.relispartition AS part,
               c.relrowsecurity AND c.relforcerowsecurity AS forced
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'institution'
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
        ORDER BY c.relname <> 'stream_progress', c.oid
    LOOP
        SELECT coalesce(array_agg(polname), '{}') INTO held FROM pg_policy
        WHERE polrelid = one.oid AND (polname <> 'pipeline' OR polroles = ARRAY[one.relowner]);
        IF NOT one.forced THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', one.name);
        END IF;
        IF NOT 'pipeline' = ANY (held) THEN
            EXECUTE format('DROP POLICY IF EXISTS pipeline ON %s', one.name);
            EXECUTE format('CREATE POLICY pipeline ON %s TO %I USING (true)', one.name, pg_get_userbyid(one.relowner));
        END IF;
        IF NOT one.part AND NOT 'readers' = ANY (held) THEN
            EXECUTE format('CREATE POLICY readers ON %s FOR SELECT '
                           'USING (institution = ANY ((SELECT readable_institutions())::text[]))', one.name);
        END IF;
        IF NOT one.part AND served AND NOT 'one_institution' = ANY (held) THEN
            EXECUTE format('CREATE POLICY one_institution ON %s TO one_institution '
                           'USING (institution = current_setting(''healthalliance.institution'', true))', one.name);
        END IF;
    END LOOP;
    IF served THEN
        GRANT SELECT ON risk_scores, patient_history, rejected_events, stream_progress TO one_institution;
        GRANT UPDATE (superseded_at) ON risk_scores TO one_institution;
        GRANT SELECT, INSERT, UPDATE, DELETE ON worklist_marks, cds_cards, intake_requests, alert_channels,
            alert_standings, alerts TO one_institution;
    END IF;
END $$
"""

_PARTITIONS = """
CREATE OR REPLACE FUNCTION ensure_risk_score_partitions(from_day date, months integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', from_day);
    part text;
    owner name;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_risk_score_partitions'));
    FOR i IN 0 .. months - 1 LOOP
        part := 'risk_scores_' || to_char(month, 'YYYY_MM');
        IF to_regclass(part) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF risk_scores FOR VALUES FROM (%L) TO (%L)', part,
                to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00'
            );
            SELECT pg_get_userbyid(relowner) INTO owner FROM pg_class WHERE oid = to_regclass(part);
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
            EXECUTE format('CREATE POLICY pipeline ON %I TO %I USING (true)', part, owner);
        END IF;
        month := month + interval '1 month';
    END LOOP;
END $$
"""

# The order of versions needs the offset in the hospital's topic, which analysts do not see: the owner reads it.
_VERSIONS = """
CREATE OR REPLACE VIEW score_versions WITH (security_barrier) AS
SELECT one.institution, one.record_id, one.received_at,
       (SELECT count(*) FROM risk_scores AS earlier
        WHERE earlier.institution = one.institution AND earlier.encounter_pseudonym = one.encounter_pseudonym
          AND (earlier.scored_at, earlier.source_offset) <= (one.scored_at, one.source_offset)) AS version
FROM risk_scores AS one WHERE institution = ANY ((SELECT readable_institutions())::text[])
"""

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
_NUMBERS = "\n       ".join(f"(one.features->>'{name}')::double precision AS {name}," for name in _FEATURES)

_HISTORY = f"""
CREATE OR REPLACE VIEW risk_history AS
SELECT one.institution, one.encounter_pseudonym, one.patient_pseudonym,
       (SELECT version FROM score_versions AS placed
        WHERE placed.record_id = one.record_id AND placed.received_at = one.received_at) AS version,
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
    AND before.encounter_pseudonym = one.encounter_pseudonym
"""

# A patient moves a count by 1 and a sum of probabilities by less; see docs/analysts.md.
_COUNT, _SUM = "3", "0.5"
# Above ten, so that a count which begins to be told is hardly more likely to have been nine than another number.
_TOLD = "12.5"
_OWN = "institution = ANY ((SELECT readable_institutions())::text[])"


def _key(*contents: str) -> str:
    """Name what a row counts by a hash that nobody can guess."""
    return f"sha256(convert_to(concat_ws('|', (SELECT salt FROM noise_salt), {', '.join(contents)}), 'UTF8')) AS key"


def _noise(name: str, scale: str) -> str:
    """Draw from Laplace's distribution: the same for the same contents, anew for all of a row once they change.

    52 bits of a hash are the uniform number, between -1/2 and 1/2 and neither.
    """
    bits = f"('x' || left(md5(key::text || '{name}'), 13))::bit(52)::bigint"
    uniform = f"(({bits} + 0.5) / 4503599627370496.0::float8 - 0.5)"
    return f"(-{scale} * sign({uniform}) * ln(1 - 2 * abs({uniform})))"


def _counted(name: str) -> str:
    """Say a count as it is told: null where it is small, or seems so."""
    noisy = f"{name} + {_noise(name, _COUNT)}"
    return f"CASE WHEN {name} >= 10 AND {noisy} >= {_TOLD} THEN round({noisy})::bigint END"


def _meant(name: str, of: str) -> str:
    """Say a mean of numbers between 0 and 1 over `of` rows as it is told."""
    noisy = f"{name} + {_noise(name, _SUM)} / {of}"
    return f"round(least(1, greatest(0, {noisy}))::numeric, 3)::double precision"


_AGGREGATES = {
    "institution_daily_risk": f"""
SELECT institution, day, encounters, inpatient_stays,
       CASE WHEN told THEN high END AS high, CASE WHEN told THEN medium END AS medium,
       CASE WHEN told THEN low END AS low, mean_probability
FROM (SELECT *, high IS NOT NULL AND medium IS NOT NULL AND low IS NOT NULL AS told
      FROM (SELECT institution, day,
                   {_counted("encounters")} AS encounters,
                   CASE WHEN encounters - inpatient_stays >= 10
                        THEN {_counted("inpatient_stays")} END AS inpatient_stays,
                   {_counted("high")} AS high, {_counted("medium")} AS medium,
                   {_counted("low")} AS low,
                   {_meant("mean_probability", "encounters")} AS mean_probability
            FROM (SELECT *, {_key("'day'", "institution", "day", "encounters", "inpatient_stays", "high", "medium",
                                  "low", "round((mean_probability * encounters)::numeric, 4)")}
                  FROM institution_daily_risk_exact WHERE {_OWN}) AS counted) AS noisy) AS judged
WHERE encounters IS NOT NULL
""",
    "model_performance": f"""
SELECT institution, model_name, model_version, role, outcomes, readmitted,
       CASE WHEN readmitted IS NOT NULL
            THEN round(least(1, readmitted / outcomes::float8)::numeric, 3)::double precision END AS observed_share,
       mean_probability,
       CASE WHEN readmitted IS NOT NULL
            THEN round((least(1, readmitted / outcomes::float8) / nullif(mean_probability, 0))::numeric, 2)
                 ::double precision END AS calibration_ratio,
       CASE WHEN readmitted IS NOT NULL THEN brier END AS brier,
       CASE WHEN readmitted IS NOT NULL THEN auroc END AS auroc,
       first_discharge, last_discharge
FROM (SELECT institution, model_name, model_version, role,
             {_counted("outcomes")} AS outcomes,
             CASE WHEN outcomes - readmitted >= 10 THEN {_counted("readmitted")} END AS readmitted,
             {_meant("mean_probability", "outcomes")} AS mean_probability,
             {_meant("brier", "outcomes")} AS brier,
             {_meant("auroc", "least(readmitted, outcomes - readmitted)")} AS auroc,
             date_trunc('week', first_discharge, 'UTC') AS first_discharge,
             date_trunc('week', last_discharge, 'UTC') AS last_discharge
      FROM (SELECT *, {_key("'model'", "institution", "model_name", "model_version", "role", "outcomes",
                          "readmitted", "round((mean_probability * outcomes)::numeric, 4)")}
            FROM model_performance_exact WHERE {_OWN}) AS measured) AS noisy
WHERE outcomes IS NOT NULL
""",
    "model_calibration": f"""
SELECT institution, model_name, model_version, role, risk_group, outcomes, readmitted, mean_probability,
       round(least(1, readmitted / outcomes::float8)::numeric, 3)::double precision AS observed_share
FROM (SELECT institution, model_name, model_version, role, risk_group,
             {_counted("outcomes")} AS outcomes, {_counted("readmitted")} AS readmitted,
             {_meant("mean_probability", "outcomes")} AS mean_probability
      FROM (SELECT *, {_key("'group'", "institution", "model_name", "model_version", "role", "risk_group",
                          "sum(outcomes) OVER whole", "sum(readmitted) OVER whole",
                          "round((sum(mean_probability * outcomes) OVER whole)::numeric, 4)")}
            FROM model_calibration_exact WHERE {_OWN}
            WINDOW whole AS (PARTITION BY institution, model_name, model_version, role)) AS measured) AS noisy
WHERE outcomes IS NOT NULL AND readmitted IS NOT NULL
""",
    "institution_daily_rejections": f"""
SELECT institution, day, reason, rejected
FROM (SELECT institution, day, reason, {_counted("rejected")} AS rejected
      FROM (SELECT *, {_key("'rejected'", "institution", "day", "reason", "rejected",
                          "sum(rejected) OVER (PARTITION BY institution, day)")}
            FROM (SELECT institution, (received_at AT TIME ZONE 'UTC')::date AS day, reason, count(*) AS rejected
                  FROM rejected_events WHERE {_OWN} GROUP BY 1, 2, 3) AS counted) AS keyed) AS noisy
WHERE rejected IS NOT NULL
""",
    "institution_events": f"""
SELECT institution, scored, updated, unchanged, retracted, rejected,
       rejected::double precision / nullif(scored + updated + unchanged + retracted + rejected, 0) AS rejected_share,
       known_until
FROM (SELECT institution, {", ".join(
    f"greatest(0, round(({name} + {_noise(name, _COUNT)})::numeric, -1))::bigint AS {name}"
    for name in ("scored", "updated", "unchanged", "retracted", "rejected"))},
             date_trunc('day', known_until, 'UTC') AS known_until
      FROM (SELECT *, {_key("'events'", "institution", "scored", "updated", "unchanged", "retracted", "rejected")}
            FROM (SELECT institution, sum(scored) AS scored, sum(updated) AS updated, sum(unchanged) AS unchanged,
                         sum(retracted) AS retracted, sum(rejected) AS rejected, max(known_until) AS known_until
                  FROM stream_progress WHERE {_OWN} GROUP BY institution) AS summed) AS keyed) AS noisy
""",
    "feature_drift_daily": f"""
SELECT institution, feature, model_name, model_version, day, date_trunc('day', measured_at, 'UTC') AS measured_at,
       (stays / 10 * 10)::integer AS stays, round(psi::numeric, 2)::double precision AS psi
FROM feature_drift_readings WHERE {_OWN}
""",
    "feature_drift": f"""
SELECT DISTINCT ON (institution, feature) institution, feature, model_name, model_version,
       date_trunc('day', measured_at, 'UTC') AS measured_at, (stays / 10 * 10)::integer AS stays,
       round(psi::numeric, 2)::double precision AS psi
FROM feature_drift_readings WHERE {_OWN}
ORDER BY institution, feature, feature_drift_readings.measured_at DESC
""",
}  # fmt: skip

# What is counted is read for all institutions, past the views that are read with the reader's own rights.
_DAILY_EXACT = """
CREATE OR REPLACE VIEW institution_daily_risk_exact AS
SELECT institution, (received_at AT TIME ZONE 'UTC')::date AS day,
       count(*) AS encounters,
       count(*) FILTER (WHERE inpatient) AS inpatient_stays,
       count(*) FILTER (WHERE band = 'high') AS high,
       count(*) FILTER (WHERE band = 'medium') AS medium,
       count(*) FILTER (WHERE band = 'low') AS low,
       avg(probability) AS mean_probability
FROM risk_scores WHERE superseded_by IS NULL AND status <> 'entered-in-error'
GROUP BY institution, (received_at AT TIME ZONE 'UTC')::date
"""

# What the views of these names were before, which a rollback may have brought back.
_EXACT = r"""
DO $$ BEGIN
    IF pg_get_viewdef('model_calibration'::regclass) !~ 'model_calibration_exact' THEN
        EXECUTE 'CREATE OR REPLACE VIEW model_calibration_exact AS ' || pg_get_viewdef('model_calibration'::regclass);
    END IF;
END $$
"""

# Views whose rows are encounters are read with the reader's own rights, which are those on the columns that they read.
_GRANTS = f"""
CREATE OR REPLACE FUNCTION grant_analysts() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT oid::regclass::text AS name FROM pg_class
        WHERE oid IN ('latest_risk'::regclass, 'risk_history'::regclass, 'risk_outcomes'::regclass)
          AND NOT 'security_invoker=true' = ANY (coalesce(reloptions, '{{}}'))
    LOOP
        EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', one.name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'analyst') THEN
        GRANT SELECT ON latest_risk, risk_history, risk_outcomes, score_versions, {", ".join(_AGGREGATES)} TO analyst;
        FOR one IN
            SELECT a.attrelid::regclass::text AS name, string_agg(DISTINCT quote_ident(a.attname), ', ') AS columns
            FROM pg_rewrite AS r
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
            JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
            JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE r.ev_class IN ('latest_risk'::regclass, 'risk_history'::regclass, 'risk_outcomes'::regclass)
            GROUP BY a.attrelid
        LOOP
            EXECUTE format('GRANT SELECT (%s) ON %s TO analyst', one.columns, one.name);
        END LOOP;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'aggregate_analyst') THEN
        GRANT SELECT ON {", ".join(_AGGREGATES)} TO aggregate_analyst;
    END IF;
END $$
"""

_ROLES = "SELECT make_roles(ARRAY['analyst', 'aggregate_analyst', 'one_institution'])"
_PRIVATE = (
    "REVOKE EXECUTE ON FUNCTION make_roles, protect_rows, grant_analysts, ensure_risk_score_partitions FROM PUBLIC"
)


def upgrade() -> None:
    """Make the roles, policies and views."""
    for statement in (*_SALT.split(";\n"), _MAKE_ROLES, _READABLE, _PROTECT, _PARTITIONS, _DAILY_EXACT, _EXACT):
        if statement.strip():
            op.execute(statement)
    for statement in (_VERSIONS, _HISTORY):
        op.execute(statement)
    for name, query in _AGGREGATES.items():
        op.execute(f"CREATE OR REPLACE VIEW {name} WITH (security_barrier) AS {query}")
    for statement in (_GRANTS, _PRIVATE, _ROLES, "SELECT protect_rows()", "SELECT grant_analysts()"):
        op.execute(statement)


_UNPROTECT = r"""
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT polname, polrelid::regclass::text AS name FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
               WHERE relnamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('DROP POLICY %I ON %s', one.polname, one.name);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', one.name);
    END LOOP;
    FOR one IN SELECT rolname FROM pg_roles WHERE rolname IN ('analyst', 'aggregate_analyst', 'one_institution')
    LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', current_schema(), one.rolname);
    END LOOP;
    EXECUTE 'CREATE OR REPLACE VIEW model_calibration AS ' || pg_get_viewdef('model_calibration_exact'::regclass);
END $$
"""


def downgrade() -> None:
    """Take it back; the roles stay, other databases of the cluster may have them too."""
    op.execute(_UNPROTECT)
    for statement in m0006_analysts._VIEWS.split(";\n"):
        name = statement.removeprefix("\n").strip().removeprefix("CREATE VIEW ").split(" ", 1)[0]
        if name in {*_AGGREGATES, "risk_history"} - {"model_calibration"}:
            op.execute(statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))
    for name in ("latest_risk", "risk_history", "risk_outcomes"):
        op.execute(f"ALTER VIEW {name} RESET (security_invoker)")
    op.execute("ALTER VIEW model_calibration RESET (security_barrier)")
    op.execute("DROP VIEW model_calibration_exact, score_versions")
    op.execute("DROP TABLE noise_salt")
    op.execute("DROP FUNCTION protect_rows, make_roles, readable_institutions")
    op.execute(m0006_analysts._ROLE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("SELECT grant_analysts()")
