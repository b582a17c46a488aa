"""Run by Alembic, inside the transaction that `database.py` has begun: an upgrade happens whole or not at all."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
