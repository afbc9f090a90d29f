"""pointsman.haproxy.spop.state: the table, and that a connection does what it says."""

from collections.abc import Callable

import pytest
import spop_peer
from spop_peer import AgentDisconnect

from pointsman.haproxy.spop import ProtocolError, SPOPConnection, State, Status
from pointsman.haproxy.spop.state import TRANSITIONS, FrameType, Signal


def in_state(state: State) -> SPOPConnection:
    """A connection brought to `state` with one NOTIFY (1/1) in flight where that is possible."""
    connection = SPOPConnection()
    if state is not State.AWAIT_HELLO:
        connection.receive_data(spop_peer.hello() + spop_peer.notify(1, 1, spop_peer.message("m")))
    if state is State.CLOSING:
        connection.send_disconnect()
    if state is State.CLOSED:
        connection.receive_data(spop_peer.disconnect())
    connection.events_received()
    connection.data_to_send()
    assert connection.state is state
    return connection


def receiving(data: bytes) -> Callable[[SPOPConnection], None]:
    return lambda connection: connection.receive_data(data)


STIMULI: dict[Signal, Callable[[SPOPConnection], None]] = {
    Signal.HELLO: receiving(spop_peer.hello()),
    Signal.HEALTH_CHECK: receiving(spop_peer.healthcheck_hello()),
    Signal.NOTIFY: receiving(spop_peer.notify(2, 1, spop_peer.message("m"))),
    Signal.DISCONNECT: receiving(spop_peer.disconnect()),
    Signal.UNKNOWN_FRAME: receiving(spop_peer.frame(77, b"whatever")),
    Signal.EOF: SPOPConnection.receive_eof,
    Signal.LEAVE: SPOPConnection.send_disconnect,
    Signal.GOODBYE: lambda connection: connection.send_disconnect(Status.UNKNOWN, "leaving"),
}

SENT_BY_PEER = frozenset({Signal.HELLO, Signal.HEALTH_CHECK, Signal.NOTIFY, Signal.DISCONNECT, Signal.UNKNOWN_FRAME})


def test_every_state_and_signal_is_considered() -> None:
    """The table has a row for each state, and this file a stimulus for each signal."""
    assert TRANSITIONS.keys() == set(State)
    assert STIMULI.keys() == set(Signal)


def test_every_state_is_reached_and_only_closed_is_final() -> None:
    """From AWAIT_HELLO each state can be reached; each but CLOSED can be left for it."""
    reached = {State.AWAIT_HELLO}
    for _ in State:
        reached |= {after for state in reached for after in TRANSITIONS[state].values()}
    assert reached == set(State)
    for state in State:
        assert (State.CLOSED in TRANSITIONS[state].values()) is (state is not State.CLOSED)


def test_signals_of_ours_are_no_frame_types() -> None:
    """A peer cannot send what only we may do: those signals have numbers no frame can have."""
    for signal in Signal:
        assert (signal in (FrameType.HAPROXY_HELLO, FrameType.HAPROXY_DISCONNECT, FrameType.NOTIFY)) is (signal > 0)


@pytest.mark.parametrize("signal", Signal, ids=lambda signal: signal.name)
@pytest.mark.parametrize("state", [state for state in State if state is not State.CLOSED], ids=lambda state: state.name)
def test_a_connection_follows_the_table(state: State, signal: Signal) -> None:
    """A listed signal leads where the table says; any other frame of the peer is INVALID and ends the connection."""
    connection = in_state(state)
    after = TRANSITIONS[state].get(signal)
    if after is not None:
        STIMULI[signal](connection)
        assert connection.state is after
    elif signal in SENT_BY_PEER:
        with pytest.raises(ProtocolError) as caught:
            STIMULI[signal](connection)
        assert caught.value.status is Status.INVALID
        assert connection.state is State.CLOSED
        assert spop_peer.parse(connection.data_to_send()) == [AgentDisconnect(Status.INVALID, caught.value.reason)]
    else:
        STIMULI[signal](connection)
        assert connection.state is State.CLOSED


@pytest.mark.parametrize("signal", Signal, ids=lambda signal: signal.name)
def test_closed_ignores_everything(signal: Signal) -> None:
    """Nothing moves a CLOSED connection or makes it speak."""
    connection = in_state(State.CLOSED)
    STIMULI[signal](connection)
    assert connection.state is State.CLOSED
    assert connection.events_received() == []
    assert connection.data_to_send() == b""


@pytest.mark.parametrize("state", [State.AWAIT_HELLO, State.OPEN, State.CLOSING], ids=lambda state: state.name)
@pytest.mark.parametrize(
    "kind", [FrameType.AGENT_HELLO, FrameType.AGENT_DISCONNECT, FrameType.ACK], ids=lambda k: k.name
)
def test_an_agents_frames_do_not_come_from_haproxy(kind: FrameType, state: State) -> None:
    """Frame types of the agent's side are known, so they are not skipped as unknown ones are."""
    with pytest.raises(ProtocolError, match=f"frame type {kind.value}") as caught:
        in_state(state).receive_data(spop_peer.frame(kind))
    assert caught.value.status is Status.INVALID


@pytest.mark.parametrize("state", [State.AWAIT_HELLO, State.OPEN, State.CLOSING], ids=lambda state: state.name)
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(spop_peer.notify(2, 1, spop_peer.message("m"), flags=0), id="first-fragment"),
        pytest.param(spop_peer.frame(FrameType.UNSET, stream_id=2, frame_id=1, flags=0), id="next-fragment"),
        pytest.param(spop_peer.frame(FrameType.UNSET, stream_id=2, frame_id=1), id="last-fragment"),
        pytest.param(
            spop_peer.frame(FrameType.UNSET, stream_id=2, frame_id=1, flags=spop_peer.FIN | spop_peer.ABORT), id="abort"
        ),
        pytest.param(spop_peer.hello(flags=0), id="hello"),
        pytest.param(spop_peer.frame(FrameType.HAPROXY_DISCONNECT, flags=0), id="disconnect"),
    ],
)
def test_fragments_are_refused_by_name(frame: bytes, state: State) -> None:
    """Fragmentation is never announced; a fragment gets the status code made for that (SPOE.txt 3.5)."""
    connection = in_state(state)
    with pytest.raises(ProtocolError, match="fragmentation") as caught:
        connection.receive_data(frame)
    assert caught.value.status is Status.FRAGMENTATION_NOT_SUPPORTED
    assert spop_peer.parse(connection.data_to_send()) == [AgentDisconnect(10, "payload fragmentation is not supported")]


def test_abort_on_a_whole_payload_is_ignored() -> None:
    """SPOE.txt 3.2: ABORT can be ignored for frames with an unfragmented payload."""
    connection = in_state(State.OPEN)
    connection.receive_data(spop_peer.notify(2, 1, flags=spop_peer.FIN | spop_peer.ABORT))
    assert connection.in_flight == 2
