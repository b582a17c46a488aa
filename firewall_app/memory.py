"""How often the garbage collector looks at what there is: seldom, and never at what was there from the start.

A look at everything is a pause of 100 ms and more, for every switch and every request, and finds next to nothing: what
flows are kept as is in no cycle (docs/decisions/0031).
"""

from __future__ import annotations

import gc

# Container objects that are new until they are looked at, and how many such looks until those that stayed are.
THRESHOLDS = 50_000, 20, 10


def collect_seldom() -> None:
    gc.set_threshold(*THRESHOLDS)


def keep_what_there_is() -> None:
    """What was made so far (the program, the policy) is not looked at again; what is replaced is freed all the same."""
    gc.freeze()
