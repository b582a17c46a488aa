"""The audit log, and requests that must not be done twice."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    texts = ("at", "request_id", "token", "who", "role", "account", "address", "method", "path")
    op.create_table(
        "audit",
        sa.Column("number", NUMBER, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=name == "account") for name in (*texts, "outcome", "problem", "changes")),
        sa.PrimaryKeyConstraint("number", name="audit_pk"),
        sqlite_autoincrement=True,
    )
    for name in ("at", "request_id", "token", "account"):
        op.create_index(f"audit_{name}", "audit", [name])
    op.create_table(
        "keys",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("scope", "key", "fingerprint", "made", "at")),
        sa.PrimaryKeyConstraint("scope", "key", name="keys_pk"),
    )
    op.create_index("keys_at", "keys", ["at"])
