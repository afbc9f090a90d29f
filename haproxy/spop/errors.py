"""Errors of a SPOP connection, with the protocol's status codes.

    SPOPError
    ├── ProtocolError   the peer broke the protocol or a limit; carries the status code that was sent back
    └── UsageError      our own program broke the contract of this package

Bytes from the peer lead to events or to one `ProtocolError`, never to anything else.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status codes of DISCONNECT frames (SPOE.txt 3.5). Others may arrive; they stay plain integers."""

    NORMAL = 0
    IO = 1
    TIMEOUT = 2
    TOO_BIG = 3
    INVALID = 4
    NO_VERSION = 5
    NO_MAX_FRAME_SIZE = 6
    NO_CAPABILITIES = 7
    UNSUPPORTED_VERSION = 8
    BAD_MAX_FRAME_SIZE = 9
    FRAGMENTATION_NOT_SUPPORTED = 10
    INTERLACED_FRAMES = 11
    FRAME_ID_NOT_FOUND = 12
    RESOURCE_ALLOCATION = 13
    UNKNOWN = 99


class SPOPError(Exception):
    """Base of everything this package raises."""


class ProtocolError(SPOPError):
    """The peer sent something SPOP, or one of our limits, does not allow.

    `status` is the code, `reason` one sentence of ASCII; both are what the AGENT-DISCONNECT frame says.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(f"{reason} (SPOP status {status.value}, {status.name})")
        self.status = status
        self.reason = reason


class UsageError(SPOPError):
    """The caller asked for something no connection in this state can do, or for a frame SPOP cannot express."""
