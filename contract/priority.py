"""The priority class of a request as its replica is told it, and the number that engines order by.

HAProxy names the class in `PRIORITY_HEADER`, but for `normal`. Engines with priority scheduling serve the lower number
first, as vLLM does.
"""

from __future__ import annotations

PRIORITY_HEADER = "x-pointsman-priority"
"""Names the priority class of a request to the replica; absent for `normal`."""

ENGINE_PRIORITIES = {"batch": 20, "low": 10, "normal": 0, "high": -10, "critical": -20}
"""The number of each class. The gaps are for clients, which may put their own requests behind each other."""

_GREATEST = 2**31 - 1


def engine_priority(name: str, asked: int = 0) -> int:
    """Return the number by which an engine orders a request: no lower than that of its class.

    name: the header's value; empty or unknown counts as `normal`.
    asked: number that the client asks for in vLLM's own way; 0 is none. It may put the request behind others, never
    before.
    """
    own = ENGINE_PRIORITIES.get(name, 0)
    return min(max(own, asked), _GREATEST) if asked > 0 else own
