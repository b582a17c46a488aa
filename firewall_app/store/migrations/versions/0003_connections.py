"""How many connections of a port are tracked at once; none said so far: the setting's default."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("ports", sa.Column("max_connections", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
