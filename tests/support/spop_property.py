"""What holds for any bytes a peer may send: events or `ProtocolError`, nothing else, however the bytes are cut.

Used by the hypothesis test that always runs and by the coverage-guided `tests/fuzz/fuzz_spop.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

import spop_peer

from haproxy.spop import Disconnected, Event, HealthCheck, Limits, Notify, ProtocolError, SPOPConnection, State

LIMITS = Limits(
    max_frame_size=1024, max_in_flight=4, max_messages=3, max_args=5, max_name_bytes=20, max_value_bytes=300
)
"""Low enough for small inputs to meet each of them."""


def outcome(pieces: Iterable[bytes]) -> tuple[list[Event], str, list[spop_peer.AgentFrame]]:
    """Feed the pieces, answer each Notify, end the stream: all events, the error if any, and all frames written.

    Whatever is asserted here holds after every piece.
    """
    connection = SPOPConnection(LIMITS)
    events: list[Event] = []
    written = b""
    error = ""
    for piece in pieces:
        try:
            connection.receive_data(piece)
        except ProtocolError as raised:
            assert not error, "a ProtocolError comes once"
            error = str(raised)
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
    frames = spop_peer.parse(written)
    check_ending(events, error, frames)
    return events, error, frames


def check_ending(events: list[Event], error: str, frames: list[spop_peer.AgentFrame]) -> None:
    """A connection ends in exactly one way, and says goodbye when someone is there to hear it."""
    endings = [event for event in events if isinstance(event, Disconnected | HealthCheck)]
    assert len(endings) + bool(error) == 1
    assert not endings or events[-1] is endings[0]
    goodbyes = [frame for frame in frames if isinstance(frame, spop_peer.AgentDisconnect)]
    assert len(goodbyes) <= 1
    if error:
        assert frames[-1:] == goodbyes
        assert goodbyes[0].status != 0


def check_any_bytes(data: bytes, cut: int) -> None:
    """`data` in one piece and in pieces lead to the same events, error and answers, apart from what is in flight.

    Whole, all of a piece's NOTIFYs are in flight before the first is answered; in pieces they are not. So the two may
    differ once the limit on them is met, and only then.
    """
    whole = outcome([data])
    pieces = outcome([data[:cut], data[cut:]])
    single = outcome(data[at : at + 1] for at in range(len(data)))
    if "in flight" not in whole[1] + pieces[1]:
        # An ACK for a frame ahead of a bad one is written only if the two came in different pieces.
        assert whole[:2] == pieces[:2] == single[:2]
