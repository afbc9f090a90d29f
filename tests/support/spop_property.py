"""What holds for any bytes a peer may send: events or `ProtocolError`, nothing else, however the bytes are cut.

Used by the hypothesis test that always runs and by the coverage-guided `tests/fuzz/fuzz_spop.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import spop_peer

from pointsman.haproxy.spop import (
    Disconnected,
    Event,
    HealthCheck,
    Limits,
    Notify,
    ProtocolError,
    SPOPConnection,
    State,
    Status,
)

LIMITS = Limits(
    max_frame_size=1024, max_in_flight=4, max_messages=3, max_args=5, max_name_bytes=20, max_value_bytes=300
)
"""Low enough for small inputs to meet each of them."""


def outcome(pieces: Iterable[bytes]) -> tuple[list[Event], Status | None]:
    """Feed the pieces, answer each Notify, end the stream: all events, and the status of the error if any.

    Whatever is asserted here holds after every piece.
    """
    connection = SPOPConnection(LIMITS)
    events: list[Event] = []
    written = b""
    error: Status | None = None
    for piece in pieces:
        try:
            connection.receive_data(piece)
        except ProtocolError as raised:
            assert error is None, "a ProtocolError comes once"
            error = raised.status
            assert connection.state is State.CLOSED
        arrived = connection.events_received()
        events += arrived
        assert connection.in_flight <= LIMITS.max_in_flight
        for event in arrived:
            if isinstance(event, Notify):
                connection.send_ack(event.stream_id, event.frame_id)
        written += connection.data_to_send()
    connection.receive_eof()
    events += connection.events_received()
    assert connection.data_to_send() == b""
    assert connection.state is State.CLOSED
    check_ending(events, error, spop_peer.parse(written))
    return events, error


def check_ending(events: list[Event], error: Status | None, frames: list[spop_peer.AgentFrame]) -> None:
    """A connection ends in exactly one way, and says goodbye when someone is there to hear it."""
    endings = [event for event in events if isinstance(event, Disconnected | HealthCheck)]
    assert len(endings) + (error is not None) == 1
    assert not endings or events[-1] is endings[0]
    goodbyes = [frame for frame in frames if isinstance(frame, spop_peer.AgentDisconnect)]
    assert len(goodbyes) <= 1
    if error is not None:
        assert frames[-1:] == goodbyes
        assert goodbyes[0].status == error != Status.NORMAL


def check_any_bytes(data: bytes, cut: int) -> None:
    """`data` in one piece and in pieces lead to the same events and the same error, apart from what is in flight.

    Whole, all of a piece's NOTIFYs are in flight before the first is answered; in pieces they are not. So the two may
    differ once ids come twice or the limit is met, and only then.
    """
    whole = outcome([data])
    pieces = outcome([data[:cut], data[cut:]])
    single = outcome(data[at : at + 1] for at in range(len(data)))
    if not {whole[1], pieces[1]} & {Status.INTERLACED_FRAMES, Status.RESOURCE_ALLOCATION}:
        assert whole == pieces == single
