"""pointsman.haproxy.spop.connection"""

import sys
from itertools import permutations

import pytest
import spop_peer
from arrivals import arrivals
from spop_peer import Ack, AgentDisconnect, AgentHello, message, string

from pointsman.haproxy.spop import (
    Disconnected,
    HealthCheck,
    HelloReceived,
    Limits,
    Message,
    Notify,
    ProtocolError,
    Scope,
    SetVar,
    SPOPConnection,
    State,
    Status,
    UsageError,
    encode_set_vars,
)


def open_connection(limits: Limits | None = None, **hello_fields: int) -> SPOPConnection:
    """A connection whose handshake is done and read."""
    connection = SPOPConnection(limits)
    connection.receive_data(spop_peer.hello(**hello_fields))
    connection.events_received()
    connection.data_to_send()
    return connection


def ask(connection: SPOPConnection, *stream_ids: int) -> list[Notify]:
    """Receive NOTIFYs `stream_id`/1 in one piece; what comes out."""
    connection.receive_data(b"".join(spop_peer.notify(stream_id, 1, message("m")) for stream_id in stream_ids))
    return [event for event in connection.events_received() if isinstance(event, Notify)]


def said(connection: SPOPConnection) -> list[spop_peer.AgentFrame]:
    """What the connection wants to write, read by the peer."""
    return spop_peer.parse(connection.data_to_send())


# --- handshake


@pytest.mark.parametrize(
    ("ours", "offered", "agreed"),
    [
        pytest.param(65536, 16380, 16380, id="haproxys-is-lower"),
        pytest.param(8192, 16380, 8192, id="ours-is-lower"),
        pytest.param(16380, 2**32 - 1, 16380, id="haproxys-is-absurd"),
    ],
)
def test_the_lower_frame_size_is_agreed(ours: int, offered: int, agreed: int) -> None:
    """SPOE.txt 3.2.4: the answer names the lower of both maxima, and it holds from there on."""
    connection = SPOPConnection(Limits(max_frame_size=ours))
    assert connection.max_frame_size == ours
    connection.receive_data(spop_peer.hello(max_frame_size=offered))
    event = connection.events_received()[0]
    assert isinstance(event, HelloReceived)
    assert event.max_frame_size == agreed == connection.max_frame_size
    assert said(connection) == [AgentHello("2.0", agreed, "pipelining")]


def test_health_check_is_answered_and_closed() -> None:
    """A health check gets AGENT-HELLO and no DISCONNECT; what it sends besides is ignored."""
    connection = SPOPConnection()
    connection.receive_data(spop_peer.healthcheck_hello() + spop_peer.notify(1, 1, message("m")))
    assert connection.events_received() == [HealthCheck()]
    assert connection.state is State.CLOSED
    assert said(connection) == [AgentHello("2.0", 16380, "pipelining")]
    connection.receive_eof()
    assert connection.events_received() == []


# --- questions and answers


def test_acks_go_out_in_any_order() -> None:
    """SPOE.txt 3.2.1: with pipelining ACKs can be sent in any order; each repeats its NOTIFY's ids."""
    for order in permutations((5, 300, 70000)):
        connection = open_connection()
        assert [notify.stream_id for notify in ask(connection, 5, 300, 70000)] == [5, 300, 70000]
        for stream_id in order:
            connection.send_ack(stream_id, 1, [SetVar(Scope.TXN, "of", stream_id)])
        assert said(connection) == [Ack(stream_id, 1, {"txn.of": stream_id}) for stream_id in order]
        assert connection.in_flight == 0


def test_ids_are_a_pair() -> None:
    """One stream may have several frames in flight, and two streams the same frame-id."""
    connection = open_connection()
    connection.receive_data(b"".join(spop_peer.notify(stream, frame) for stream in (1, 2) for frame in (1, 2)))
    connection.send_ack(2, 1)
    connection.send_ack(1, 2)
    assert said(connection) == [Ack(2, 1), Ack(1, 2)]
    assert connection.in_flight == 2


def test_actions_encoded_or_not() -> None:
    """The payload may come ready-made; the frame is the same."""
    connection = open_connection()
    ask(connection, 1, 2, 3)
    connection.send_ack(1, 1, encode_set_vars(Scope.TXN, {"first": "r1"}))
    connection.send_ack(2, 1, [SetVar(Scope.TXN, "first", "r1")])
    connection.send_ack(3, 1)
    assert said(connection) == [Ack(1, 1, {"txn.first": "r1"}), Ack(2, 1, {"txn.first": "r1"}), Ack(3, 1)]


def test_data_to_send_is_taken_once() -> None:
    """What was handed out for writing is not handed out again."""
    connection = open_connection()
    ask(connection, 1)
    connection.send_ack(1, 1)
    assert connection.data_to_send()
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("ids", [(2, 1), (1, 2)], ids=["stream", "frame"])
def test_an_ack_for_nothing_is_the_callers_mistake(ids: tuple[int, int]) -> None:
    """Answering what was not asked, or twice, raises and writes nothing."""
    connection = open_connection()
    ask(connection, 1)
    with pytest.raises(UsageError, match=f"{ids[0]}/{ids[1]}"):
        connection.send_ack(*ids)
    connection.send_ack(1, 1)
    with pytest.raises(UsageError, match="1/1"):
        connection.send_ack(1, 1)
    assert said(connection) == [Ack(1, 1)]


def test_an_ack_before_hello_is_the_callers_mistake() -> None:
    """Nothing is in flight before the handshake."""
    with pytest.raises(UsageError):
        SPOPConnection().send_ack(0, 0)


def test_an_oversize_ack_leaves_the_question_open() -> None:
    """An ACK HAProxy would refuse is not sent; the caller can still send a smaller one."""
    connection = open_connection(max_frame_size=256)
    ask(connection, 1)
    room = 256 - len(spop_peer.frame(103)[4:])
    with pytest.raises(UsageError, match="256"):
        connection.send_ack(1, 1, bytes(room + 1))
    assert connection.data_to_send() == b""
    connection.send_ack(1, 1, bytes(room))
    assert len(connection.data_to_send()) == 4 + 256


# --- the ends of a connection


def test_haproxy_leaves() -> None:
    """HAPROXY-DISCONNECT is answered by AGENT-DISCONNECT; late answers go nowhere, without complaint."""
    connection = open_connection()
    ask(connection, 1)
    connection.receive_data(spop_peer.disconnect(2, "a timeout occurred") + spop_peer.notify(2, 1, message("m")))
    assert connection.events_received() == [Disconnected(Status.TIMEOUT, "a timeout occurred")]
    assert connection.state is State.CLOSED
    connection.send_ack(1, 1)
    connection.send_disconnect()
    assert said(connection) == [AgentDisconnect(Status.NORMAL, "")]


def test_an_unlisted_status_is_kept() -> None:
    """SPOE.txt 3.5 lets either side define codes of its own."""
    connection = open_connection()
    connection.receive_data(spop_peer.disconnect(12345, "strange"))
    assert connection.events_received() == [Disconnected(12345, "strange")]


@pytest.mark.parametrize(
    ("before", "message_"),
    [
        pytest.param(b"", "without a DISCONNECT frame", id="between-frames"),
        pytest.param(spop_peer.notify(1, 1)[:5], "inside a frame", id="inside-a-frame"),
    ],
)
def test_haproxy_vanishes(before: bytes, message_: str) -> None:
    """The end of the stream is an event like a DISCONNECT; nobody is left to be told."""
    connection = open_connection()
    connection.receive_data(before)
    connection.receive_eof()
    connection.receive_eof()
    assert connection.events_received() == [Disconnected(Status.IO, f"the peer closed the connection {message_}")]
    assert connection.state is State.CLOSED
    assert connection.data_to_send() == b""


def test_leaving_waits_for_the_last_ack() -> None:
    """A polite goodbye goes out behind the last ACK, and takes NOTIFYs along that were on their way."""
    connection = open_connection()
    ask(connection, 1, 2)
    connection.send_disconnect(Status.NORMAL, "rebalancing")
    assert connection.data_to_send() == b""
    connection.send_ack(1, 1)
    assert [notify.stream_id for notify in ask(connection, 3)] == [3]
    connection.send_ack(3, 1)
    assert connection.state is State.CLOSING
    connection.send_ack(2, 1)
    assert connection.state is State.CLOSED
    assert said(connection) == [Ack(1, 1), Ack(3, 1), Ack(2, 1), AgentDisconnect(Status.NORMAL, "rebalancing")]


@pytest.mark.parametrize("status", [Status.NORMAL, Status.UNKNOWN], ids=lambda status: status.name)
def test_leaving_with_nothing_in_flight_is_immediate(status: Status) -> None:
    """Without a question open, goodbye goes out at once, also before HELLO."""
    for connection in (open_connection(), SPOPConnection()):
        connection.send_disconnect(status, "bye")
        assert connection.state is State.CLOSED
        assert said(connection) == [AgentDisconnect(status, "bye")]


def test_leaving_can_be_hurried() -> None:
    """A second goodbye, or one with an error, does not wait for ACKs."""
    for last in (Status.NORMAL, Status.TIMEOUT):
        connection = open_connection()
        ask(connection, 1)
        connection.send_disconnect()
        connection.send_disconnect(last)
        assert said(connection) == [AgentDisconnect(last, "")]
        assert connection.in_flight == 0


# --- peers at fault


def test_events_before_the_fault_come_out() -> None:
    """Frames ahead of a bad one in the same piece are events; frames behind it are ignored."""
    connection = open_connection()
    good, bad, late = spop_peer.notify(1, 1, message("m")), spop_peer.hello(), spop_peer.notify(2, 1, message("m"))
    with pytest.raises(ProtocolError):
        connection.receive_data(good + bad + late)
    assert connection.events_received() == [Notify(1, 1, [Message("m", {})])]
    connection.receive_data(late)
    assert connection.events_received() == []
    connection.send_ack(1, 1)
    (frame,) = said(connection)
    assert isinstance(frame, AgentDisconnect)


@pytest.mark.parametrize(
    ("length", "status"),
    [
        pytest.param(16381, Status.TOO_BIG, id="one-too-many"),
        pytest.param(369295622, Status.TOO_BIG, id="panicked-haproxy-go"),
        pytest.param(2**32 - 1, Status.TOO_BIG, id="greatest"),
        pytest.param(6, Status.INVALID, id="no-room-for-ids"),
        pytest.param(0, Status.INVALID, id="nothing"),
    ],
)
def test_lengths_are_checked_before_the_frame_comes(length: int, status: Status) -> None:
    """The four bytes of an impossible length are enough, however they arrive; nothing is held for it."""
    for pieces in arrivals(length.to_bytes(4, "big")):
        connection = open_connection()
        for piece in pieces[:-1]:
            connection.receive_data(piece)
        with pytest.raises(ProtocolError) as caught:
            connection.receive_data(pieces[-1])
        assert caught.value.status is status
        assert said(connection) == [AgentDisconnect(status, caught.value.reason)]


def test_a_frame_of_the_greatest_size_is_taken() -> None:
    """The agreed size is a size that is allowed."""
    connection = open_connection(max_frame_size=256)
    overhead = len(spop_peer.notify(1, 1, message("m", a=string("x" * 240)))) - 4 - 240
    frame = spop_peer.notify(1, 1, message("m", a=string("x" * (256 - overhead))))
    assert len(frame) == 4 + 256
    connection.receive_data(frame)
    assert connection.in_flight == 1


def test_hello_larger_than_our_limit() -> None:
    """Our own limit holds for HELLO, before anything is agreed."""
    with pytest.raises(ProtocolError) as caught:
        SPOPConnection(Limits(max_frame_size=256)).receive_data(spop_peer.hello(engine_id="e" * 200))
    assert caught.value.status is Status.TOO_BIG


def test_one_question_too_many() -> None:
    """NOTIFYs in flight are bounded; an ACK makes room."""
    connection = open_connection(Limits(max_in_flight=2))
    ask(connection, 1, 2)
    connection.send_ack(1, 1)
    ask(connection, 3)
    with pytest.raises(ProtocolError, match="more than 2") as caught:
        ask(connection, 4)
    assert caught.value.status is Status.RESOURCE_ALLOCATION


def test_a_question_asked_twice() -> None:
    """Ids that are in flight cannot come again, or their ACK would mean either; once answered they can."""
    connection = open_connection()
    ask(connection, 1)
    connection.send_ack(1, 1)
    ask(connection, 1)
    with pytest.raises(ProtocolError, match="1/1") as caught:
        ask(connection, 1)
    assert caught.value.status is Status.INTERLACED_FRAMES


def test_a_refused_notify_is_not_in_flight() -> None:
    """Nothing of a bad NOTIFY stays behind."""
    connection = open_connection()
    with pytest.raises(ProtocolError):
        connection.receive_data(spop_peer.notify(1, 1, b"\x01m\x01\x01a\x0f"))
    assert connection.in_flight == 0
    assert connection.events_received() == []


# --- cost


def test_a_large_frame_in_many_pieces_is_joined_once() -> None:
    """Pieces of an incomplete frame are not copied as they come: two joins, for its length and for its end."""
    connection = open_connection(max_frame_size=262140)
    frame = spop_peer.notify(1, 1, message("m", body=spop_peer.binary(bytes(200_000))))
    pieces = [frame[at : at + 100] for at in range(0, len(frame), 100)]
    calls: list[str] = []

    def count_calls(_frame: object, event: str, called: object) -> None:
        if event == "c_call" and getattr(called, "__name__", "") == "join":
            calls.append(event)

    sys.setprofile(count_calls)
    try:
        for piece in (frame[:2], frame[2:100], *pieces[1:]):
            connection.receive_data(piece)
    finally:
        sys.setprofile(None)
    assert connection.in_flight == 1
    assert len(calls) <= 2


def test_repr_tells_state_and_load() -> None:
    """The representation is what one wants in a log line."""
    connection = open_connection()
    ask(connection, 1)
    connection.receive_data(b"\x00")
    assert repr(connection) == "<SPOPConnection OPEN in_flight=1 held=1>"
