"""The tables as they are now.  How a database gets there is `migrations/`; a test holds the two together.

Only text and 64-bit numbers, so that both databases behave alike and every value is checked in one place,
`codec.py`: moments are ISO 8601 in UTC with microseconds, lists are JSON.  What a firewall or a peer names (droplets,
tags) is text of the caller and may not exist yet, so only the references that must hold are foreign keys.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = "0007"  # of the tables: that of the newest migration

# SQLite numbers have 64 bits whatever their type is called, but only "INTEGER PRIMARY KEY" is the row itself.
Number = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "fk": "%(table_name)s_%(column_0_name)s_exists",
        "ck": "%(table_name)s_%(constraint_name)s",
        "ix": "%(table_name)s_%(column_0_N_name)s",
    }
)

# "revision": commits so far; "rule", "slot": the last one given out (policy.Counters).  Numbers of tags, firewalls,
# port rule sets and external peers are given out with those of rules, so that no two of them have one.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Number, nullable=False),
)

hypervisors = Table(
    "hypervisors",
    metadata,
    Column("dpid", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("uplinks", Text),
    Column("created_at", Text),
)

tags = Table(
    "tags",
    metadata,
    Column("account", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("number", Number),
)

droplets = Table(
    "droplets",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created_at", Text),
)

external_peers = Table(
    "external_peers",
    metadata,
    Column("key", Text, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("droplet_ids", Text, nullable=False),
    Column("created_at", Text),
    Column("number", Number, nullable=False),
)

ports = Table(
    "ports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("droplet_id", Number, ForeignKey("droplets.id"), nullable=False, index=True),
    Column("hypervisor", Text, ForeignKey("hypervisors.dpid"), nullable=False, index=True),
    Column("interface", Text),
    Column("number", Number),
    Column("mac", Text, nullable=False),
    Column("addresses", Text, nullable=False),
    Column("slot", Number, nullable=False),
    Column("created_at", Text),
    Column("max_connections", Number),
    # Zone 0 is the host's own: a port without a slot must never reach a switch.
    CheckConstraint("slot BETWEEN 1 AND 65535", name="slot_given"),
)

firewalls = Table(
    "firewalls",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("droplet_ids", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created_at", Text),
    Column("number", Number),
    UniqueConstraint("account", "name"),
)

port_rule_sets = Table(
    "port_rule_sets",
    metadata,
    Column("port_id", Text, ForeignKey("ports.id"), primary_key=True),
    Column("account", Text, nullable=False),
    Column("number", Number),
)

# Order within a direction is that of `position`, which may have gaps.
rules = Table(
    "rules",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("firewall_id", Text, ForeignKey("firewalls.id")),
    Column("port_id", Text, ForeignKey("port_rule_sets.port_id")),
    Column("direction", Text, nullable=False),
    Column("position", Number, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("first_port", Number, nullable=False),
    Column("last_port", Number, nullable=False),
    Column("peer", Text, nullable=False),
    Column("ports", Text),  # as they were written, where the numbers do not say so
    CheckConstraint("id BETWEEN 1 AND 4294967295", name="id_given"),
    CheckConstraint("(firewall_id IS NULL) <> (port_id IS NULL)", name="one_owner"),
    Index(None, "firewall_id"),
    Index(None, "port_id"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("account", Text),
    Column("note", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("revoked_at", Text),
    UniqueConstraint("hash"),
)

# What was asked for, by whom, and what came of it.  Lines are added and never changed.
audit = Table(
    "audit",
    metadata,
    Column("number", Number, primary_key=True),
    Column("at", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("account", Text),
    Column("address", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("problem", Text, nullable=False),
    Column("changes", Text, nullable=False),
    Index(None, "at"),
    Index(None, "request_id"),
    Index(None, "token"),
    Index(None, "account"),
    sqlite_autoincrement=True,  # a number is never given twice, even when lines were deleted
)

# Requests that must not be done twice: an `Idempotency-Key`, and what was made with it.
keys = Table(
    "keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("made", Text, nullable=False),
    Column("at", Text, nullable=False, index=True),
)

# Who wrote which revisions (history.py): from `revision` on it was `timeline`, up to the next line.
timelines = Table(
    "timelines",
    metadata,
    Column("revision", Number, primary_key=True, autoincrement=False),
    Column("timeline", Number, nullable=False),
)

# Timelines of other stores, and up to which revision of each an operator has said that this store goes first.
superseded = Table(
    "superseded",
    metadata,
    Column("timeline", Number, primary_key=True, autoincrement=False),
    Column("revision", Number, nullable=False),
)

# Which controller may write; one row, "active".  See lease.py.
lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("token", Number, nullable=False),
    Column("process", Text, nullable=False),
    Column("url", Text, nullable=False),
)
