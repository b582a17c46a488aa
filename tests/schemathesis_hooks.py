"""What schemathesis checks beside its own checks."""

from __future__ import annotations

import re

from schemathesis import Case, CheckContext, GenerationMode, Response, check

# What a schema cannot tell: names that must exist, limits, the order in a range, keys that exclude each other, and
# what was sent before.
TOLD_BY_NO_SCHEMA = re.compile(
    r"does not exist|is not registered|no more than|is after last|cannot be combined|a name of 1 to 15 bytes"
    r"|was used for another request|name the port|pairs of addresses|is the same as 'from'|of an IP version"
    r"|is no address of a host|has no port"
)


@check
def refused_for_a_reason(ctx: CheckContext, response: Response, case: Case) -> None:
    """A request that fits the schema is refused for nothing but what no schema can tell."""
    if response.status_code == 422 and case.meta and case.meta.generation.mode is GenerationMode.POSITIVE:
        problems = [fault["problem"] for fault in response.json()["errors"]]
        unknown = [problem for problem in problems if not TOLD_BY_NO_SCHEMA.search(problem)]
        assert not unknown, unknown
