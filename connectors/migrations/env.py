"""Alembic's environment: it is handed an open connection and reads no settings of its own."""

from alembic import context

from connectors.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
