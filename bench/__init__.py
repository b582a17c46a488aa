"""How fast, and how far: measured beside peers and limits in one run (docs/benchmarks.md)."""
