"""The rule for every text that is read alone: in a table, in Prometheus, in an API schema."""

from __future__ import annotations

import re

NEEDS_A_NEIGHBOUR = re.compile(
    r"(It|Its|That|This|These|Those|They|Them|Their|What|Who|Whoever|Whose|How|Of these|Of this|The same|And|But|"
    r"Empty:|0:|None:)(\b|(?<=:))"
)
"""First words of a text that leaves its subject to the reader."""


def complaint(text: str) -> str:
    """What is wrong with a meaning; empty when it stands alone."""
    if not text.strip():
        return "has no meaning: write one sentence"
    found = NEEDS_A_NEIGHBOUR.match(text)
    return f"begins with {found.group(1)!r}: name the subject" if found else ""
