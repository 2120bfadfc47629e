"""Keep what comes in over HTTP beside events: marks on the worklist, cards and their feedback, idempotency keys."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE worklist_marks (
    institution text NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    patient_pseudonym uuid NOT NULL,
    acknowledged_record_id uuid,
    acknowledged_at timestamptz,
    snoozed_until timestamptz,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (institution, encounter_pseudonym)
);
CREATE INDEX worklist_marks_patient ON worklist_marks (institution, patient_pseudonym);

CREATE TABLE cds_cards (
    card_id uuid NOT NULL,
    institution text NOT NULL,
    patient_pseudonym uuid NOT NULL,
    encounter_pseudonym uuid NOT NULL,
    record_id uuid,
    band text NOT NULL CHECK (band IN ('low', 'medium', 'high')),
    model_version text NOT NULL,
    served_at timestamptz NOT NULL,
    outcome text CHECK (outcome IN ('accepted', 'overridden')),
    override_reason text,
    outcome_at timestamptz,
    PRIMARY KEY (card_id)
);
CREATE INDEX cds_cards_patient ON cds_cards (institution, patient_pseudonym);

CREATE TABLE intake_requests (
    institution text NOT NULL,
    idempotency_key text NOT NULL,
    body_digest text NOT NULL,
    source_partition integer,
    source_offset bigint,
    requested_at timestamptz NOT NULL,
    delivered_at timestamptz,
    PRIMARY KEY (institution, idempotency_key)
);
CREATE INDEX intake_requests_requested ON intake_requests (requested_at);

CREATE INDEX risk_scores_scored ON risk_scores (institution, scored_at);
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX risk_scores_scored")
    for table in ("intake_requests", "cds_cards", "worklist_marks"):
        op.execute(f"DROP TABLE {table}")
