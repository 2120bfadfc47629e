"""Judge scores by one view that looks each up by its keys, and find rejections by their arrival.

Databases that were made between two releases have these already.
"""

from alembic import op

from connectors.migrations.versions.m0003_outcomes import MEASURES, OUTCOMES

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_INDEX = "CREATE INDEX IF NOT EXISTS rejected_events_received ON rejected_events (institution, received_at)"

# 30 days of follow-up and the 90 days of outcomes that are judged, in hours as in the migration before.
_JUDGED = "interval '2880 hours'"
# 10, 5, 3 and 2 groups are all made of these.
_PARTS = 30
# Has the scores of the stays in question looked up by their keys; the planner would read the scores of all months,
# since it cannot know how few of them are asked for.
_EACH = "OFFSET 0"

# A later migration goes back to them.
VIEWS = f"""
CREATE OR REPLACE VIEW risk_outcomes AS {OUTCOMES}
LEFT JOIN LATERAL (SELECT probability, band, model_name, model_version FROM risk_scores
                   WHERE record_id = stay.record_id AND received_at = stay.received_at {_EACH}) AS score ON true
LEFT JOIN challenger_scores AS challenger ON challenger.record_id = stay.record_id;

CREATE OR REPLACE VIEW judged_scores AS
SELECT stay.institution, of.model_name, of.model_version, of.role, of.probability, stay.record_id, stay.discharged_at,
       (stay.outcome = 'readmitted')::integer AS readmitted
FROM risk_outcomes AS stay
CROSS JOIN LATERAL (
    VALUES ('champion', stay.model_name, stay.model_version, stay.probability),
           ('challenger', stay.challenger_name, stay.challenger_version, stay.challenger_probability)
) AS of(role, model_name, model_version, probability)
WHERE stay.matured AND stay.outcome <> 'censored' AND stay.discharged_at > stay.known_until - {_JUDGED}
  AND of.probability IS NOT NULL;

CREATE OR REPLACE VIEW model_performance_exact AS
WITH {MEASURES.format(scored="judged_scores")};

CREATE OR REPLACE VIEW model_calibration AS
WITH placed AS (
    SELECT *, row_number() OVER (PARTITION BY institution, model_name, model_version, role
                                 ORDER BY probability, record_id) - 1 AS place,
           count(*) OVER (PARTITION BY institution, model_name, model_version, role) AS number
    FROM judged_scores
), parts AS (
    SELECT institution, model_name, model_version, role, place * {_PARTS} / number AS part,
           count(*) AS outcomes, sum(readmitted) AS readmitted, sum(probability) AS probabilities
    FROM placed GROUP BY 1, 2, 3, 4, 5
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
"""


def upgrade() -> None:
    """Make the index and the views."""
    for statement in (_INDEX, *VIEWS.split(";\n")):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Leave them: they have the columns that the views had before, and go with those."""
