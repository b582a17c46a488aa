"""Coverage-guided fuzzing of the OpenFlow decoder: `make fuzz-openflow` (SECONDS=600).  Needs atheris.

What it finds is written to the working directory; it belongs into `FOUND` of tests/test_openflow_fuzz.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

with atheris.instrument_imports(include=["firewall_app"]):
    from decoding import hold


def one(data: bytes) -> None:
    if len(data) >= 4:
        # Nothing is learnt from a length that does not fit: it is the first thing that is looked at.
        data = data[:2] + len(data).to_bytes(2, "big") + data[4:]
    hold(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
