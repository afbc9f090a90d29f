"""Events that a SPOP connection reports, as plain values."""

from __future__ import annotations

import msgspec

from pointsman.haproxy.spop.typed_data import Value


class Message(msgspec.Struct, frozen=True, gc=False):
    """One SPOE message of a NOTIFY: its name and its arguments, as `spoe-message` in HAProxy's configuration has them.

    An argument that has no name there is called "". One whose sample could not be fetched is None.
    """

    name: str
    args: dict[str, Value]


class HelloReceived(msgspec.Struct, frozen=True, gc=False):
    """The handshake is done: the answer is queued and NOTIFYs may follow."""

    max_frame_size: int
    """Bytes, as agreed: the lower of both sides' (SPOE.txt 3.2.4)."""
    capabilities: tuple[str, ...]
    """Capabilities of HAProxy; only `pipelining` is used."""
    engine_id: str
    """HAProxy's identifier of the engine and, up to 3.0, its thread; empty when not given."""


class HealthCheck(msgspec.Struct, frozen=True, gc=False):
    """HAProxy asked whether this agent speaks SPOP; the answer is queued and the connection CLOSED."""


class Notify(msgspec.Struct, frozen=True, gc=False):
    """A question that wants one ACK carrying the same two ids, in any order among those in flight (SPOE.txt 3.2.1)."""

    stream_id: int
    frame_id: int
    messages: list[Message]


class Disconnected(msgspec.Struct, frozen=True, gc=False):
    """HAProxy ended the connection: by HAPROXY-DISCONNECT, or by just closing it (status IO)."""

    status: int
    """A `Status`, or a number SPOE.txt does not list."""
    message: str


Event = HelloReceived | HealthCheck | Notify | Disconnected
