"""Coverage-guided fuzzing of the OpenFlow decoder: `make fuzz-decoder` (SECONDS=600).  Needs atheris.

What it finds is written to the working directory; it belongs into `FOUND` of tests/test_openflow_fuzz.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

SEEDS = Path("corpus")

with atheris.instrument_imports(include=["firewall_app"]):
    from decoding import hold


def one(data: bytes) -> None:
    if len(data) >= 4:
        # Nothing is learnt from a length that does not fit: it is the first thing that is looked at.
        data = data[:2] + len(data).to_bytes(2, "big") + data[4:]
    hold(data)


def seed() -> None:
    """Begins from what a switch really says."""
    from test_openflow_fuzz import ANSWERS

    if SEEDS.is_dir() and not any(SEEDS.iterdir()):
        for number, data in enumerate(dict.fromkeys(ANSWERS)):
            (SEEDS / f"answer-{number}").write_bytes(data)


if __name__ == "__main__":
    seed()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
