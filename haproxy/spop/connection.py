"""One agent's connection, without the socket: bytes in, events out; answers in, bytes out.

The shell around it feeds what it reads, answers each `Notify`, writes `data_to_send()` and closes the socket once
`state` is CLOSED:

    try:
        spop.receive_data(data)
    except ProtocolError as error:
        log(error)                       # the AGENT-DISCONNECT is queued already
    for event in spop.events_received():
        if isinstance(event, Notify):
            spop.send_ack(event.stream_id, event.frame_id, answer(event))
    write(spop.data_to_send())
    if spop.state is State.CLOSED:
        close()

What always holds: bytes from the peer lead to events or to one `ProtocolError`; once CLOSED, further bytes are
ignored, as is the rest of the chunk that closed it; events of frames before a bad one are still handed out; each
`Notify` may be answered once, in any order; nothing grows beyond `Limits`. It has no clock: timeouts are the shell's.
"""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.haproxy.spop.actions import Action, encode_actions
from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError
from pointsman.haproxy.spop.events import Disconnected, Event, HealthCheck, HelloReceived, Notify
from pointsman.haproxy.spop.frames import (
    FIN,
    HEAD,
    LENGTH_BYTES,
    MIN_FRAME_BYTES,
    Limits,
    Vocabulary,
    decode_disconnect,
    decode_hello,
    decode_messages,
    encode_ack,
    encode_agent_disconnect,
    encode_agent_hello,
)
from pointsman.haproxy.spop.state import TRANSITIONS, FrameType, Signal, State
from pointsman.haproxy.spop.varint import ONE_BYTE_LIMIT, decode_varint, decode_varint_rest

_NOTIFY = int(FrameType.NOTIFY)
_HEAD_BYTES = HEAD.size


class SPOPConnection:
    """The agent's side of one SPOP 2.0 connection."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._state = State.AWAIT_HELLO
        self._accepts = TRANSITIONS[self._state]
        self._max_frame_size = self._limits.max_frame_size
        self._max_in_flight = self._limits.max_in_flight
        self._vocabulary = Vocabulary(self._limits.max_name_bytes)
        # Ids of a NOTIFY without ACK -> the same ids as they came, which is what its ACK repeats.
        self._in_flight: dict[tuple[int, int], bytes] = {}
        # An incomplete frame is kept in the pieces it came in and joined once, when `_wanted` bytes are there.
        self._pieces: list[bytes] = []
        self._held = 0
        self._wanted = 0
        self._events: list[Event] = []
        self._out: list[bytes] = []
        # What AGENT-DISCONNECT will say once nothing is in flight; set in CLOSING.
        self._farewell: tuple[Status, str] | None = None

    def __repr__(self) -> str:
        return f"<SPOPConnection {self._state.name} in_flight={len(self._in_flight)} held={self._held}>"

    @property
    def state(self) -> State:
        """CLOSED means: write `data_to_send()`, then close the socket."""
        return self._state

    @property
    def in_flight(self) -> int:
        """NOTIFYs received and not answered. 0 once CLOSED."""
        return len(self._in_flight)

    @property
    def max_frame_size(self) -> int:
        """Bytes of a frame without its length; our own limit until the handshake, then what was agreed."""
        return self._max_frame_size

    # --- from the peer

    def receive_data(self, data: bytes) -> None:
        """Take what the socket gave, any number of bytes. Raises ProtocolError at the first wrong frame, once."""
        if not self._accepts or not data:
            return
        if self._pieces:
            self._pieces.append(data)
            self._held += len(data)
            if self._held < self._wanted:
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        try:
            self._receive_frames(data)
        except ProtocolError as error:
            self._disconnect(error.status, error.reason)
            raise

    def receive_eof(self) -> None:
        """The peer closed its side. Leads to a `Disconnected`, unless the connection is CLOSED."""
        if self._state is State.CLOSED:
            return
        where = "inside a frame" if self._held else "without a DISCONNECT frame"
        self._events.append(Disconnected(Status.IO, f"the peer closed the connection {where}"))
        self._move(self._accepts[Signal.EOF])

    def events_received(self) -> list[Event]:
        """Return the events since the last call, oldest first."""
        events = self._events
        self._events = []
        return events

    # --- to the peer

    def send_ack(self, stream_id: int, frame_id: int, actions: bytes | Iterable[Action] = b"") -> None:
        """Answer a `Notify`; `actions` may be encoded already (`encode_set_vars`). No actions mean "no opinion".

        Ignored once CLOSED, since HAProxy may leave while an answer is being worked out. Raises UsageError when
        nothing with these ids is in flight, or when the frame would be larger than agreed.
        """
        key = (stream_id, frame_id)
        ids = self._in_flight.get(key)
        if ids is None:
            if self._state is State.CLOSED:
                return
            raise UsageError(f"no NOTIFY {stream_id}/{frame_id} is in flight")
        payload = actions if isinstance(actions, bytes) else encode_actions(actions)
        frame = encode_ack(ids, payload)
        if len(frame) - LENGTH_BYTES > self._max_frame_size:
            raise UsageError(f"an ACK with {len(payload)} bytes of actions exceeds {self._max_frame_size} bytes")
        del self._in_flight[key]
        self._out.append(frame)
        if self._farewell is not None and not self._in_flight:
            self._disconnect(*self._farewell)

    def send_disconnect(self, status: Status = Status.NORMAL, message: str = "") -> None:
        """Leave. With NORMAL and NOTIFYs in flight, after the last of their ACKs (CLOSING); else at once.

        A second call while CLOSING does not wait for ACKs any longer. Ignored once CLOSED.
        """
        if self._state is State.CLOSED:
            return
        if status == Status.NORMAL and self._in_flight and Signal.LEAVE in self._accepts:
            self._farewell = (status, message)
            self._move(self._accepts[Signal.LEAVE])
        else:
            self._disconnect(status, message)

    def data_to_send(self) -> bytes:
        """Return and remove the bytes to write, oldest first."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # --- inside

    def _receive_frames(self, data: bytes) -> None:
        """Handle the complete frames of `data`, which starts at one, and keep the rest."""
        pos = 0
        available = len(data)
        while available - pos >= _HEAD_BYTES:
            length, kind, flags = HEAD.unpack_from(data, pos)
            if not MIN_FRAME_BYTES <= length <= self._max_frame_size:
                break
            end = pos + LENGTH_BYTES + length
            if end > available:
                break
            if kind == _NOTIFY and flags & FIN and _NOTIFY in self._accepts:
                self._receive_notify(data, pos + _HEAD_BYTES, end)
            else:
                self._receive_rare(kind, flags, data, pos + _HEAD_BYTES, end)
                if not self._accepts:
                    return
            pos = end
        self._keep(data, pos)

    def _keep(self, data: bytes, pos: int) -> None:
        """Hold the incomplete frame at `data[pos:]`, if there is one. Its length is checked before it is believed."""
        self._held = len(data) - pos
        if not self._held:
            return
        self._wanted = LENGTH_BYTES
        if self._held >= LENGTH_BYTES:
            length = int.from_bytes(data[pos : pos + LENGTH_BYTES], "big")
            # SPOE.txt 3.2.5: the size agreed on holds for all subsequent frames.
            if length > self._max_frame_size:
                raise ProtocolError(Status.TOO_BIG, f"a frame of {length} bytes exceeds {self._max_frame_size}")
            if length < MIN_FRAME_BYTES:
                raise ProtocolError(Status.INVALID, f"a frame of {length} bytes is too short to be one")
            self._wanted += length
        self._pieces.append(data[pos:] if pos else data)

    def _receive_notify(self, data: bytes, pos: int, end: int) -> None:
        stream_id = data[pos]
        after = pos + 1
        if stream_id >= ONE_BYTE_LIMIT:
            stream_id, after = decode_varint_rest(data, after, stream_id)
        frame_id, after = decode_varint(data, after)
        key = (stream_id, frame_id)
        in_flight = self._in_flight
        if key in in_flight:
            raise ProtocolError(Status.INTERLACED_FRAMES, f"NOTIFY {stream_id}/{frame_id} is in flight already")
        if len(in_flight) >= self._max_in_flight:
            raise ProtocolError(Status.RESOURCE_ALLOCATION, f"more than {self._max_in_flight} NOTIFYs are in flight")
        messages = decode_messages(data, after, end, self._limits, self._vocabulary)
        in_flight[key] = data[pos:after]
        self._events.append(Notify(stream_id, frame_id, messages))

    def _receive_rare(self, kind: int, flags: int, data: bytes, pos: int, end: int) -> None:
        """A frame other than a good NOTIFY."""
        # SPOE.txt 3.2: fragments after the first have type UNSET; all but the last lack FIN. We never announce it.
        if kind == FrameType.UNSET or not flags & FIN:
            raise ProtocolError(Status.FRAGMENTATION_NOT_SUPPORTED, "payload fragmentation is not supported")
        signal = kind if kind in _FRAME_TYPES else Signal.UNKNOWN_FRAME
        if signal not in self._accepts:
            raise ProtocolError(Status.INVALID, f"frame type {kind} is not allowed in state {self._state.name}")
        if kind == FrameType.HAPROXY_HELLO:
            self._receive_hello(data, pos, end)
        elif kind == FrameType.HAPROXY_DISCONNECT:
            status, message = decode_disconnect(data, pos, end, self._vocabulary)
            self._events.append(Disconnected(status, message))
            # SPOE.txt 3.2.8: HAProxy waits for an AGENT-DISCONNECT in reply.
            self._out.append(encode_agent_disconnect(Status.NORMAL, ""))
            self._move(self._accepts[Signal.DISCONNECT])

    def _receive_hello(self, data: bytes, pos: int, end: int) -> None:
        hello = decode_hello(data, pos, end, self._vocabulary)
        # SPOE.txt 3.2.4: the lower of both sides' maxima.
        self._max_frame_size = min(hello.max_frame_size, self._limits.max_frame_size)
        self._out.append(encode_agent_hello(self._max_frame_size))
        if hello.healthcheck:
            # SPOE.txt 3.2.5: the agent can safely close without DISCONNECT.
            self._events.append(HealthCheck())
            self._move(self._accepts[Signal.HEALTH_CHECK])
        else:
            self._events.append(HelloReceived(self._max_frame_size, hello.capabilities, hello.engine_id))
            self._move(self._accepts[Signal.HELLO])

    def _disconnect(self, status: int, message: str) -> None:
        self._out.append(encode_agent_disconnect(status, message))
        self._move(self._accepts[Signal.GOODBYE])

    def _move(self, state: State) -> None:
        self._state = state
        self._accepts = TRANSITIONS[state]
        if state is State.CLOSED:
            self._in_flight.clear()
            self._pieces.clear()
            self._held = 0


_FRAME_TYPES = frozenset(int(kind) for kind in FrameType)
