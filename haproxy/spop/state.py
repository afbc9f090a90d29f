"""The states of an agent's connection and the one table of what may happen in each (after h11's `_state.py`).

    AWAIT_HELLO   nothing but HAPROXY-HELLO, or the end, may come
    OPEN          NOTIFYs come, ACKs go
    CLOSING       we said we want to leave; what is in flight is still answered, then AGENT-DISCONNECT goes out
    CLOSED        over: the peer's bytes are ignored, what is queued is still to be written, then close the socket

What the table does not list is a `ProtocolError` when the peer did it and a `UsageError` when we did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto


class FrameType(IntEnum):
    """Frame types (SPOE.txt 3.2.2)."""

    UNSET = 0
    HAPROXY_HELLO = 1
    HAPROXY_DISCONNECT = 2
    NOTIFY = 3
    AGENT_HELLO = 101
    AGENT_DISCONNECT = 102
    ACK = 103


class State(Enum):
    """Where a connection stands."""

    AWAIT_HELLO = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


class Signal(IntEnum):
    """Causes of a transition. Frames of the peer have the number of their type, all others a negative one."""

    HELLO = FrameType.HAPROXY_HELLO
    DISCONNECT = FrameType.HAPROXY_DISCONNECT
    NOTIFY = FrameType.NOTIFY
    HEALTH_CHECK = -1
    """A HELLO whose `healthcheck` item is true (SPOE.txt 3.2.4)."""
    UNKNOWN_FRAME = -2
    """A frame whose type SPOE.txt does not list."""
    EOF = -3
    LEAVE = -4
    """We want to go once everything in flight is answered."""
    GOODBYE = -5
    """AGENT-DISCONNECT goes out: everything is answered, the peer was at fault, or we do not wait."""


TRANSITIONS: Mapping[State, Mapping[int, State]] = {
    State.AWAIT_HELLO: {
        Signal.HELLO: State.OPEN,
        Signal.HEALTH_CHECK: State.CLOSED,
        Signal.DISCONNECT: State.CLOSED,
        Signal.EOF: State.CLOSED,
        Signal.GOODBYE: State.CLOSED,
    },
    State.OPEN: {
        Signal.NOTIFY: State.OPEN,
        # SPOE.txt 3.2.2: unknown frames may be silently skipped.
        Signal.UNKNOWN_FRAME: State.OPEN,
        Signal.DISCONNECT: State.CLOSED,
        Signal.EOF: State.CLOSED,
        Signal.LEAVE: State.CLOSING,
        Signal.GOODBYE: State.CLOSED,
    },
    State.CLOSING: {
        # HAProxy sends on until it reads our DISCONNECT; a NOTIFY left without ACK costs its request the full timeout.
        Signal.NOTIFY: State.CLOSING,
        Signal.UNKNOWN_FRAME: State.CLOSING,
        Signal.DISCONNECT: State.CLOSED,
        Signal.EOF: State.CLOSED,
        Signal.GOODBYE: State.CLOSED,
    },
    State.CLOSED: {},
}
"""`TRANSITIONS[state][signal]` is the next state."""
