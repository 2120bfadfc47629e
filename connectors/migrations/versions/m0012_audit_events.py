"""Keep who looked at what and who changed what: rows that can only be added, chained by hashes.

A rollback to a release before leaves them, though its revision says they are not there (docs/operations.md).
"""

from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE IF NOT EXISTS audit_events (
    institution text NOT NULL,
    sequence bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    login text NOT NULL,
    agent text NOT NULL,
    action text NOT NULL,
    subjects jsonb NOT NULL,
    outcome text NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (institution, sequence)
);
"""

# Runs as its owner: an analyst's login may add what it did, by this alone. Its lock is an institution's, so that
# they do not wait for each other; it ends with the transaction. A function sees what was committed while it waited,
# since each of its statements looks anew.
_APPEND = r"""
CREATE OR REPLACE FUNCTION append_audit_event(
    chain text, at timestamptz, by text, did text, about jsonb, ended text, digest bytea
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    number bigint;
    previous bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(1635083369, hashtext(chain));
    SELECT sequence, hash INTO number, previous FROM audit_events
        WHERE institution = chain ORDER BY sequence DESC LIMIT 1;
    number := coalesce(number, 0) + 1;
    previous := coalesce(previous, decode(repeat('00', 32), 'hex'));
    INSERT INTO audit_events (institution, sequence, recorded_at, login, agent, action, subjects, outcome, hash)
        VALUES (chain, number, at, session_user, by, did, about, ended,
                sha256(previous || int8send(number) || digest || convert_to(session_user, 'UTF8')));
END $$
"""

# Whose temporary tables stand in front of others' would have his triggers run as the owner.
_FIX_PATH = """
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION append_audit_event SET search_path = %I, pg_catalog, pg_temp', current_schema());
END $$
"""

_REFUSE = """
CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_events can only be added to' USING ERRCODE = 'insufficient_privilege';
END $$
"""

_GUARD = """
CREATE OR REPLACE TRIGGER audit_events_only_grow BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()
"""

_REVOKE = "REVOKE UPDATE, DELETE, TRUNCATE ON audit_events FROM PUBLIC, CURRENT_USER"


def upgrade() -> None:
    """Make the table, what adds to it, and what keeps it from being changed."""
    for statement in (_TABLE, _APPEND, _FIX_PATH, _REFUSE, _GUARD, _REVOKE):
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE audit_events")
    op.execute("DROP FUNCTION append_audit_event, refuse_audit_change")
