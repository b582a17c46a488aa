"""Numbers for tags, firewalls and port rule sets: what switches know them by."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEYS = {"tags": ("account", "key"), "firewalls": ("id",), "port_rule_sets": ("port_id",)}


def upgrade() -> None:
    connection = op.get_bind()
    counters = sa.table("counters", sa.column("name", sa.Text()), sa.column("value", NUMBER))
    last = connection.execute(sa.select(counters.c.value).where(counters.c.name == "rule")).scalar_one()
    for name, keys in KEYS.items():
        op.add_column(name, sa.Column("number", NUMBER))
        columns = [sa.column(key, sa.Text()) for key in keys]
        table = sa.table(name, *columns, sa.column("number", NUMBER))
        for row in connection.execute(sa.select(*columns).order_by(*columns)).all():
            last += 1
            this = [column == value for column, value in zip(columns, row, strict=True)]
            connection.execute(table.update().where(*this).values(number=last))
    connection.execute(counters.update().where(counters.c.name == "rule").values(value=last))
