"""Note what became of rejected events."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE rejection_resolutions (
    topic_id uuid NOT NULL,
    source_partition integer NOT NULL,
    source_offset bigint NOT NULL,
    resolution text NOT NULL CHECK (resolution IN ('redriven', 'discarded')),
    resolved_at timestamptz NOT NULL,
    redriven_offset bigint,
    because text,
    PRIMARY KEY (topic_id, source_partition, source_offset)
);
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(_TABLE.removesuffix(";\n"))


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE rejection_resolutions")
