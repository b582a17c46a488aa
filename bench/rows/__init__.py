"""One file for each row of the table."""

ORDER = (  # on the page; rows that are not named here come last
    "full-load", "add-rule", "remove-rule", "add-member", "restart", "flow-stats", "encode",
    "fleet-start", "fleet-idle", "fleet-tag", "storm", "rest",
    "throughput", "connections", "conntrack-memory", "growth",
)  # fmt: skip
