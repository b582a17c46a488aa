"""On which timeline each revision was written, and which timelines of other stores this one goes before."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TEXT = sa.Text()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "timelines",
        sa.Column("revision", NUMBER, nullable=False, autoincrement=False),
        sa.Column("timeline", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("revision", name="timelines_pk"),
    )
    op.create_table(
        "superseded",
        sa.Column("timeline", NUMBER, nullable=False, autoincrement=False),
        sa.Column("revision", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("timeline", name="superseded_pk"),
    )
    # All that was written up to now, by whomever; a copy of this store that is migrated by itself is another one.
    first = secrets.randbits(63)
    op.execute(sa.text("INSERT INTO timelines (revision, timeline) VALUES (0, :first)").bindparams(first=first))
