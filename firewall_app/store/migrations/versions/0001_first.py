"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", TEXT),
        sa.Column("value", NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("name", name="counters_pk"),
    )
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in ("revision", "rule", "slot")])
    op.create_table(
        "hypervisors",
        sa.Column("dpid", TEXT),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("uplinks", TEXT),
        sa.Column("created_at", TEXT),
        sa.PrimaryKeyConstraint("dpid", name="hypervisors_pk"),
    )
    op.create_table(
        "tags",
        sa.Column("account", TEXT),
        sa.Column("key", TEXT),
        sa.Column("name", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("account", "key", name="tags_pk"),
    )
    op.create_table(
        "droplets",
        sa.Column("id", NUMBER, autoincrement=False),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("created_at", TEXT),
        sa.PrimaryKeyConstraint("id", name="droplets_pk"),
    )
    op.create_table(
        "ports",
        sa.Column("id", TEXT),
        sa.Column("droplet_id", NUMBER, nullable=False),
        sa.Column("hypervisor", TEXT, nullable=False),
        sa.Column("interface", TEXT),
        sa.Column("number", NUMBER),
        sa.Column("mac", TEXT, nullable=False),
        sa.Column("addresses", TEXT, nullable=False),
        sa.Column("slot", NUMBER, nullable=False),
        sa.Column("created_at", TEXT),
        sa.PrimaryKeyConstraint("id", name="ports_pk"),
        sa.ForeignKeyConstraint(["droplet_id"], ["droplets.id"], name="ports_droplet_id_exists"),
        sa.ForeignKeyConstraint(["hypervisor"], ["hypervisors.dpid"], name="ports_hypervisor_exists"),
        sa.CheckConstraint("slot BETWEEN 1 AND 65535", name="ports_slot_given"),
    )
    op.create_index("ports_droplet_id", "ports", ["droplet_id"])
    op.create_index("ports_hypervisor", "ports", ["hypervisor"])
    op.create_table(
        "firewalls",
        sa.Column("id", TEXT),
        sa.Column("account", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("droplet_ids", TEXT, nullable=False),
        sa.Column("tags", TEXT, nullable=False),
        sa.Column("created_at", TEXT),
        sa.PrimaryKeyConstraint("id", name="firewalls_pk"),
        sa.UniqueConstraint("account", "name", name="firewalls_account_name_unique"),
    )
    op.create_table(
        "port_rule_sets",
        sa.Column("port_id", TEXT),
        sa.Column("account", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("port_id", name="port_rule_sets_pk"),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name="port_rule_sets_port_id_exists"),
    )
    op.create_table(
        "rules",
        sa.Column("id", NUMBER, autoincrement=False),
        sa.Column("firewall_id", TEXT),
        sa.Column("port_id", TEXT),
        sa.Column("direction", TEXT, nullable=False),
        sa.Column("position", NUMBER, nullable=False),
        sa.Column("protocol", TEXT, nullable=False),
        sa.Column("first_port", NUMBER, nullable=False),
        sa.Column("last_port", NUMBER, nullable=False),
        sa.Column("peer", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="rules_pk"),
        sa.ForeignKeyConstraint(["firewall_id"], ["firewalls.id"], name="rules_firewall_id_exists"),
        sa.ForeignKeyConstraint(["port_id"], ["port_rule_sets.port_id"], name="rules_port_id_exists"),
        sa.CheckConstraint("id BETWEEN 1 AND 4294967295", name="rules_id_given"),
        sa.CheckConstraint("(firewall_id IS NULL) <> (port_id IS NULL)", name="rules_one_owner"),
    )
    op.create_index("rules_firewall_id", "rules", ["firewall_id"])
    op.create_index("rules_port_id", "rules", ["port_id"])
    op.create_table(
        "tokens",
        sa.Column("id", TEXT),
        sa.Column("hash", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("account", TEXT),
        sa.Column("note", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("revoked_at", TEXT),
        sa.PrimaryKeyConstraint("id", name="tokens_pk"),
        sa.UniqueConstraint("hash", name="tokens_hash_unique"),
    )
