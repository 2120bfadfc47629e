"""Keep who is to be alerted: what stands as each channel has seen it, and an alert for each crossing into a band."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A rollback to a release before them leaves them, though its revision says they are not there (docs/operations.md).
_TABLES = """
CREATE TABLE IF NOT EXISTS alert_channels (
    institution text NOT NULL,
    channel text NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (institution, channel)
);

CREATE TABLE IF NOT EXISTS alert_standings (
    institution text NOT NULL,
    channel text NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    patient_pseudonym uuid NOT NULL,
    record_id uuid NOT NULL,
    topic_id uuid NOT NULL,
    source_partition integer NOT NULL,
    source_offset bigint NOT NULL,
    supersedes uuid,
    scored_at timestamptz NOT NULL,
    band text CHECK (band IN ('low', 'medium', 'high')),
    probability double precision,
    PRIMARY KEY (encounter_pseudonym, institution, channel)
);
CREATE INDEX IF NOT EXISTS alert_standings_patient ON alert_standings (institution, patient_pseudonym);

CREATE TABLE IF NOT EXISTS alerts (
    alert_id uuid NOT NULL,
    institution text NOT NULL,
    channel text NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    patient_pseudonym uuid NOT NULL,
    record_id uuid NOT NULL,
    known_band text CHECK (known_band IN ('low', 'medium', 'high')),
    band text NOT NULL CHECK (band IN ('low', 'medium', 'high')),
    probability double precision NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'delivered', 'refused', 'left')),
    reason text,
    decided_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    given_at timestamptz,
    claimed_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    PRIMARY KEY (alert_id)
);
CREATE INDEX IF NOT EXISTS alerts_waiting ON alerts (institution, channel) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS alerts_encounter ON alerts (encounter_pseudonym) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS alerts_given ON alerts (institution, channel, given_at);
CREATE INDEX IF NOT EXISTS alerts_patient ON alerts (institution, patient_pseudonym);
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    for table in ("alerts", "alert_standings", "alert_channels"):
        op.execute(f"DROP TABLE {table}")
