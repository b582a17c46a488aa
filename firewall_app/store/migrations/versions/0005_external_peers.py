"""Whom uids of load balancers and clusters stand for; ports of rules as they were written."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TEXT = sa.Text()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "external_peers",
        sa.Column("key", TEXT),
        sa.Column("uid", TEXT, nullable=False),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("addresses", TEXT, nullable=False),
        sa.Column("droplet_ids", TEXT, nullable=False),
        sa.Column("created_at", TEXT),
        sa.Column("number", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("key", name="external_peers_pk"),
    )
    op.add_column("rules", sa.Column("ports", TEXT))
