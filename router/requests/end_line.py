"""One line of HAProxy's log ring: the end of a request, or its first token.

`decode_line` checks every number where it enters. The module is left out of the compiled request path: a compiled
struct does not hold the bounds of its annotations.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pointsman.policies.decision import Reason

UNSET = "-"
"""Text that HAProxy prints for a variable that is not set."""

MAX_TIME_DIGITS = 10
"""Of a first-token time in milliseconds: 116 days, longer than any stream lives."""

Milliseconds = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""HAProxy keeps times of a request in 32 bits."""

NO_SERVER = "<"
"""Where no replica served, HAProxy writes `<NOSRV>`, or `<lua.NAME>` for what answered; no replica's id begins so."""


class Line(msgspec.Struct, gc=False):
    """One line of the ring. Times are milliseconds, -1 for a phase not reached (HAProxy log format, 8.4)."""

    ev: str
    id: str
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """Of the HAProxy worker that served the request; 0 in lines that name none."""
    srv: str = UNSET
    first: str = UNSET
    reason: str = UNSET
    st: Annotated[int, msgspec.Meta(ge=-1, le=999)] = 0
    """The status the client received; -1 when there was none."""
    tr: Milliseconds = -1
    """Waiting for the response headers."""
    ta: Milliseconds = -1
    """From the request's first byte to the response's last."""
    ttft: Annotated[str, msgspec.Meta(max_length=MAX_TIME_DIGITS)] = UNSET
    """Time to first token in milliseconds, where it was measured."""
    bytes: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """Of the answer, headers included."""
    ts: str = "--"
    rc: str = "0"
    """Connection retries; a leading + says the last one went to another server."""
    routed: str = UNSET
    cid: str = UNSET
    """`x-request-id` as the client sent it, where it was well-formed."""
    sse: str = UNSET
    """1 where the answer was streamed as server-sent events."""
    tenant: str = UNSET
    """Tenant of the request's API key."""
    key: str = UNSET
    """Id of the request's API key."""

    @property
    def unserved(self) -> bool:
        """Whether no replica served the request."""
        return self.srv.startswith(NO_SERVER)

    @property
    def placed_alone(self) -> bool:
        """Whether HAProxy placed the request because the router did not answer.

        HAProxy runs its rules to their end for a client that has left too, without asking the router. So the request of
        a client that left before any answer counts only where the router was away anyway, and none that ended while it
        was still received.
        """
        if self.reason != Reason.FAIL_OPEN or self.ts[1:2] == "R":
            return False
        return self.tr >= 0 or self.ts[:1] not in UNDECIDED or self.routed == _ROUTER_AWAY


UNDECIDED = {"C": "client-left", "c": "client-timeout"}
"""First letter of the termination state -> why a request ended before the router's answer to it."""

_ROUTER_AWAY = "2"
"""`routed` of a request for which HAProxy could not have asked the router."""

decode_line = msgspec.json.Decoder(Line).decode
"""A line from its JSON. Raises msgspec.MsgspecError for what is no line, or has a number out of its bounds."""
