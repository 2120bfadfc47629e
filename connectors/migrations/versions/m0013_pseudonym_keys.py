"""Name the key that each institution's pseudonyms are made with, so that another one is noticed and can replace it."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A rollback to a release before it leaves it, as the alerts' tables.
_TABLE = """
CREATE TABLE IF NOT EXISTS pseudonym_keys (
    institution text PRIMARY KEY,
    key_id text NOT NULL,
    replaces text,
    since timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(_TABLE)


def downgrade() -> None:
    """Take it away; a worker notes the keys anew."""
    op.execute("DROP TABLE pseudonym_keys")
