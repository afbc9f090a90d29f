"""Engine events over a connection that stays open (pointsman/router/fronts/feed.py, engine/transport.py).

Every frame is its length as u32, big-endian, and one record in msgpack. An engine sends `FeedHello` once, then
`EngineEvents`; each frame gets a `FeedReply`. An error ends the connection, but for 404: the replica may register
later.
"""

from __future__ import annotations

import struct

import msgspec

from pointsman.contract.events import EventsAnswer

FEED_HEAD = struct.Struct(">I")

MAX_HELLO_BYTES = 4096
"""A token and a name; before it was said nobody may send more."""


class FeedHello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sender of the messages."""

    replica: str
    token: str = ""
    """The admin API's, where that asks for one."""


class FeedReply(msgspec.Struct, frozen=True):
    """Exactly one of the two, or neither to a hello that is welcome."""

    answer: EventsAnswer | None = None
    status: int = 0
    """As the admin API would have answered, 4xx."""
    error: str = ""
