"""Alembic's environment: migrations run on the connection that `control.migrate` hands over."""

from alembic import context

from lpm_stream.control.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
