"""pointsman.haproxy.spop.frames: each frame in both directions, and every way it can arrive."""

from ipaddress import IPv4Address, IPv6Address

import pytest
import spop_peer
from arrivals import arrivals
from spop_peer import Ack, AgentDisconnect, AgentHello, golden, message, string

from pointsman.haproxy.spop import (
    Disconnected,
    Event,
    HealthCheck,
    HelloReceived,
    Limits,
    Message,
    Notify,
    ProtocolError,
    Scope,
    SetVar,
    SPOPConnection,
    Status,
    UnsetVar,
    UsageError,
    encode_actions,
    encode_set_vars,
)
from pointsman.haproxy.spop.frames import (
    MAX_DISCONNECT_MESSAGE_BYTES,
    MAX_NAMES,
    Vocabulary,
    decode_messages,
    encode_ack,
    encode_agent_disconnect,
    encode_agent_hello,
)

HELLO = golden("haproxy-2.8.25-hello")
ENGINE_ID = HELLO[-36:].decode()
HELLO_RECEIVED = HelloReceived(16380, ("pipelining", "async"), ENGINE_ID)

SCALARS = {
    "absent": (None, spop_peer.null()),
    "no": (False, spop_peer.boolean(False)),
    "yes": (True, spop_peer.boolean(True)),
    "zero": (0, spop_peer.integer(0)),
    "byte": (239, spop_peer.integer(239)),
    "word": (240, spop_peer.integer(240)),
    "two": (2287, spop_peer.integer(2287)),
    "three": (2288, spop_peer.integer(2288)),
    "minus": (-1, spop_peer.integer(-1)),
    "high": (2**63 - 1, spop_peer.integer(2**63 - 1)),
    "low": (-(2**63), spop_peer.integer(-(2**63))),
    "v4": (IPv4Address("192.0.2.1"), spop_peer.ip("192.0.2.1")),
    "v6": (IPv6Address("2001:db8::1"), spop_peer.ip("2001:db8::1")),
}


def strings(path: str, method: str, long: bytes | None, body: bytes, digest: str) -> dict[str, tuple[object, bytes]]:
    """The second message of the captured NOTIFYs; `raw` is what a Lua fetch returned, a STRING that is no text."""
    return {
        "empty": (b"", string("")),
        "text": (path.encode(), string(path)),
        "method": (method.encode(), string(method)),
        "long": (long, spop_peer.null() if long is None else string(long)),
        "raw": (b"\x00\x01\xfe\xff", string(b"\x00\x01\xfe\xff")),
        "body": (body, spop_peer.binary(body)),
        "digest": (bytes.fromhex(digest), spop_peer.binary(bytes.fromhex(digest))),
    }


POSTED = strings(
    "/v1/models",
    "POST",
    b"l" * 300,
    b"\x00body\xff",
    "d917dcd7b21d75b43c8cca54311371d83cc7ff5c18d483a2f7cd228d87249859",
)


def asked(path: str) -> dict[str, tuple[object, bytes]]:
    return strings(path, "GET", None, b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def values(args: dict[str, tuple[object, bytes]]) -> dict[str, object]:
    return {name: value for name, (value, _) in args.items()}


def encoded(name: str, args: dict[str, tuple[object, bytes]]) -> bytes:
    return message(name, **{key: data for key, (_, data) in args.items()})


def notify_event(stream_id: int, args: dict[str, tuple[object, bytes]]) -> Notify:
    return Notify(stream_id, 1, [Message("scalars", values(SCALARS)), Message("strings", values(args))])


def notify_bytes(stream_id: int, args: dict[str, tuple[object, bytes]]) -> bytes:
    return spop_peer.notify(stream_id, 1, encoded("scalars", SCALARS), encoded("strings", args))


FROM_HAPROXY = {
    "healthcheck-hello": (spop_peer.healthcheck_hello(), [HealthCheck()]),
    "hello": (spop_peer.hello(engine_id=ENGINE_ID), [HELLO_RECEIVED]),
    "notify": (notify_bytes(0, POSTED), [notify_event(0, POSTED)]),
    "notify-pipelined": (
        b"".join(notify_bytes(2 + number, asked(f"/{number}")) for number in range(3)),
        [notify_event(2 + number, asked(f"/{number}")) for number in range(3)],
    ),
    "disconnect-idle": (
        spop_peer.disconnect(2, "a timeout occurred"),
        [Disconnected(Status.TIMEOUT, "a timeout occurred")],
    ),
    "disconnect-stop": (spop_peer.disconnect(0, "normal"), [Disconnected(Status.NORMAL, "normal")]),
    "disconnect-version": (
        spop_peer.disconnect(8, "unsupported version"),
        [Disconnected(Status.UNSUPPORTED_VERSION, "unsupported version")],
    ),
}
"""By name in `tests/haproxy/golden`: the same bytes written by the peer, and the events they lead to on an open
connection (a HELLO: on a new one)."""

CAPTURED = pytest.mark.parametrize(
    ("name", "written", "events"), [pytest.param(name, *what, id=name) for name, what in FROM_HAPROXY.items()]
)


def open_connection(limits: Limits | None = None) -> SPOPConnection:
    """A connection whose handshake is done and read."""
    connection = SPOPConnection(limits)
    connection.receive_data(HELLO)
    connection.events_received()
    connection.data_to_send()
    return connection


def connection_before(frame: str) -> SPOPConnection:
    """One that the captured frame is allowed on."""
    return SPOPConnection() if "hello" in frame else open_connection()


@CAPTURED
def test_captured_frames_both_ways(name: str, written: bytes, events: list[Event]) -> None:
    """What HAProxy 2.8.25 sent leads to these events, and these values written by the peer are its very bytes."""
    data = golden(f"haproxy-2.8.25-{name}")
    assert written == data
    connection = connection_before(name)
    connection.receive_data(data)
    assert connection.events_received() == events


@CAPTURED
def test_captured_frames_in_every_split(name: str, written: bytes, events: list[Event]) -> None:
    """The events, and the bytes answered, are the same however the frame is cut."""
    whole = connection_before(name)
    whole.receive_data(written)
    answered = whole.data_to_send()
    for pieces in arrivals(written):
        connection = connection_before(name)
        for piece in pieces:
            connection.receive_data(piece)
        assert connection.events_received() == events
        assert connection.data_to_send() == answered


@CAPTURED
def test_captured_frames_with_trailing_bytes(name: str, written: bytes, events: list[Event]) -> None:
    """An incomplete frame behind a frame changes nothing, and completes later."""
    tail = spop_peer.notify(9, 1, message("late"))
    for cut in range(len(tail)):
        connection = connection_before(name)
        connection.receive_data(written + tail[:cut])
        assert connection.events_received() == events
        connection.receive_data(tail[cut:])
        late = [Notify(9, 1, [Message("late", {})])] if connection.state.name == "OPEN" else []
        assert connection.events_received() == late


@CAPTURED
def test_cut_short_inside_a_complete_frame(name: str, written: bytes, events: list[Event]) -> None:
    """A frame whose length says it ends early is a ProtocolError, or another good frame, and nothing else."""
    first = 4 + int.from_bytes(written[:4], "big")
    for size in range(7, first - 4):
        for behind in (b"", b"\x00" * 600, written):
            connection = connection_before(name)
            try:
                connection.receive_data(size.to_bytes(4, "big") + written[4 : 4 + size] + behind)
            except ProtocolError:
                assert isinstance(spop_peer.parse(connection.data_to_send())[-1], AgentDisconnect)


# --- agent's frames

AGENT_FRAMES = [
    pytest.param(
        encode_agent_hello(16380),
        "00000040 65 00000001 00 00"
        "07 76657273696f6e 08 03 322e30"
        "0e 6d61782d6672616d652d73697a65 03 fcf006"
        "0c 6361706162696c6974696573 08 0a 706970656c696e696e67",
        AgentHello("2.0", 16380, "pipelining"),
        id="agent-hello",
    ),
    pytest.param(
        encode_agent_disconnect(Status.TOO_BIG, "no"),
        "00000021 66 00000001 00 00 0b 7374617475732d636f6465 03 03 07 6d657373616765 08 02 6e6f",
        AgentDisconnect(Status.TOO_BIG, "no"),
        id="agent-disconnect",
    ),
    pytest.param(
        encode_ack(spop_peer.varint(5) + spop_peer.varint(1), b""),
        "00000007 67 00000001 05 01",
        Ack(5, 1),
        id="empty-ack",
    ),
    pytest.param(
        encode_ack(spop_peer.varint(2288) + spop_peer.varint(240), encode_set_vars(Scope.TXN, {"first": "r1"})),
        "00000017 67 00000001 f08000 f000 01 03 02 05 6669727374 08 02 7231",
        Ack(2288, 240, {"txn.first": "r1"}),
        id="ack-with-long-ids",
    ),
    pytest.param(
        encode_ack(
            b"\x01\x01",
            encode_actions(
                [SetVar(Scope.PROC, "n", 300), UnsetVar(Scope.RES, "gone"), SetVar(Scope.REQ, "b", b"\x00")]
            ),
        ),
        "0000001f 67 00000001 01 01 01 03 00 01 6e 04 fc03 02 02 04 04 676f6e65 01 03 03 01 62 09 01 00",
        Ack(1, 1, {"proc.n": 300, "res.gone": spop_peer.UNSET, "req.b": b"\x00"}),
        id="ack-set-and-unset",
    ),
]


@pytest.mark.parametrize(("written", "expected", "parsed"), AGENT_FRAMES)
def test_agent_frames_both_ways(written: bytes, expected: str, parsed: spop_peer.AgentFrame) -> None:
    """An agent's frame is these bytes, and reads as these values."""
    assert written.hex() == expected.replace(" ", "")
    assert spop_peer.parse(written) == [parsed]
    assert spop_peer.parse(written + written) == [parsed, parsed]


def test_set_vars_equal_actions() -> None:
    """The cached encoding of variables is the same as that of the actions one by one, the second time too."""
    variables = {
        "first": "r1",
        "status": 503,
        "flag": True,
        "none": None,
        "long": "x" * 300,
        "ip": IPv4Address("10.0.0.1"),
    }
    actions = [SetVar(Scope.SESS, name, value) for name, value in variables.items()]
    for _ in range(2):
        payload = encode_set_vars(Scope.SESS, variables)
        assert payload == encode_actions(actions)
        assert spop_peer.parse(encode_ack(b"\x00\x00", payload)) == [
            Ack(0, 0, {f"sess.{name}": value for name, value in variables.items()})
        ]


def test_values_that_compare_equal_are_encoded_apart() -> None:
    """1, True and "1" are three values, also for a cache."""
    for value in (1, True, "1", 1, True, "1"):
        ack = spop_peer.parse(encode_ack(b"\x00\x00", encode_set_vars(Scope.TXN, {"v": value})))[0]
        assert isinstance(ack, Ack)
        assert ack.variables == {"txn.v": value}
        assert type(ack.variables["txn.v"]) is type(value)


@pytest.mark.parametrize("name", ["", "é"])
def test_refuses_variable_names_haproxy_cannot_have(name: str) -> None:
    """A variable's name is ASCII and not empty."""
    with pytest.raises(UsageError, match="name"):
        encode_set_vars(Scope.TXN, {name: 1})


def test_long_disconnect_message_is_cut() -> None:
    """HAProxy takes at most 255 bytes; a longer reason is cut between characters."""
    frame = spop_peer.parse(encode_agent_disconnect(99, "x" + "é" * 200))[0]
    assert isinstance(frame, AgentDisconnect)
    assert frame.message == "x" + "é" * 127
    assert len(frame.message.encode()) == MAX_DISCONNECT_MESSAGE_BYTES


# --- what a NOTIFY must not be

HUGE = spop_peer.varint(2**64 - 1)


def messages(data: bytes, limits: Limits | None = None) -> list[Message]:
    """Decode a payload with no memory of earlier ones."""
    limits = limits or Limits()
    return decode_messages(data, 0, len(data), limits, Vocabulary(limits.max_name_bytes))


def test_notify_without_messages_or_arguments() -> None:
    """Nothing to say is fine, at both levels."""
    assert messages(b"") == []
    assert messages(message("bare")) == [Message("bare", {})]


def test_unnamed_argument() -> None:
    """`args src` in HAProxy's configuration names nothing; the argument is called ""."""
    assert messages(message("m", **{"": string("x")})) == [Message("m", {"": b"x"})]


@pytest.mark.parametrize(
    ("payload", "limits", "why"),
    [
        pytest.param(b"\x01m\x02" + b"\x01a\x00" * 2, Limits(), "two arguments of one name", id="same-name-twice"),
        pytest.param(b"\x02m\xe9\x00", Limits(), "not ASCII", id="message-not-ascii"),
        pytest.param(b"\x01m\x01\x01\xff\x00", Limits(), "not ASCII", id="argument-not-ascii"),
        pytest.param(b"\x01m\x01\x01a\x0a", Limits(), "reserved", id="reserved-type"),
        pytest.param(message("mmm"), Limits(max_name_bytes=2), "longer than 2", id="long-message-name"),
        pytest.param(message("m", aaa=spop_peer.null()), Limits(max_name_bytes=2), "longer than 2", id="long-name"),
        pytest.param(message("m", a=b"\x00", b=b"\x00"), Limits(max_args=1), "more than 1 arg", id="many-arguments"),
        pytest.param(message("m") * 3, Limits(max_messages=2), "more than 2 messages", id="many-messages"),
        pytest.param(message("m", a=string("x" * 300)), Limits(max_value_bytes=299), "exceeds 299", id="long-value"),
        pytest.param(b"\x01m\x01\x01a\x08" + HUGE, Limits(max_value_bytes=2**64), "cut short", id="huge-length"),
        pytest.param(b"\x01m\x01" + HUGE, Limits(), "cut short", id="huge-name"),
    ],
)
def test_refused_payloads(payload: bytes, limits: Limits, why: str) -> None:
    """Payloads that are malformed, ambiguous or beyond a limit are invalid and say why."""
    with pytest.raises(ProtocolError, match=why) as caught:
        messages(payload, limits)
    assert caught.value.status is Status.INVALID


@pytest.mark.parametrize("limit", [{"max_frame_size": 255}, {"max_value_bytes": 239}], ids=str)
def test_limits_that_cannot_hold(limit: dict[str, int]) -> None:
    """A limit below what SPOP needs, or below what is measured, is refused by name."""
    with pytest.raises(UsageError, match=next(iter(limit))):
        Limits(**limit)


def test_limits_are_reached_without_harm() -> None:
    """A limit is the greatest allowed value, not the first forbidden one."""
    limits = Limits(max_name_bytes=2, max_args=1, max_messages=2, max_value_bytes=300)
    assert len(messages(message("mm", aa=string("x" * 300)) * 2, limits)) == 2


def test_names_of_every_length() -> None:
    """Names whose length takes one byte or two decode alike, when first seen and when known."""
    vocabulary = Vocabulary(1000)
    for _ in range(2):
        for size in (0, 1, 239, 240, 241, 300, 1000):
            payload = message("m" * size, **{"a" * size: string("v")})
            assert decode_messages(payload, 0, len(payload), Limits(max_name_bytes=1000), vocabulary) == [
                Message("m" * size, {"a" * size: b"v"})
            ]


def test_vocabulary_is_bounded() -> None:
    """A peer that never repeats a name is understood, and not remembered for ever."""
    vocabulary = Vocabulary(255)
    for number in range(2 * MAX_NAMES):
        payload = message(f"m{number}", **{f"a{number}": string("v")})
        assert decode_messages(payload, 0, len(payload), Limits(), vocabulary)[0].args == {f"a{number}": b"v"}
    assert len(vocabulary.names) == len(vocabulary.heads) == len(vocabulary.messages) == MAX_NAMES


# --- what a HELLO must not be


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        pytest.param(spop_peer.hello(versions=None), Status.NO_VERSION, id="no-version"),
        pytest.param(spop_peer.hello(max_frame_size=None), Status.NO_MAX_FRAME_SIZE, id="no-size"),
        pytest.param(spop_peer.hello(capabilities=None), Status.NO_CAPABILITIES, id="no-capabilities"),
        pytest.param(spop_peer.hello(versions="1.0"), Status.UNSUPPORTED_VERSION, id="old-version"),
        pytest.param(spop_peer.hello(versions="20.0,3.2"), Status.UNSUPPORTED_VERSION, id="newer-version"),
        pytest.param(spop_peer.hello(versions=""), Status.UNSUPPORTED_VERSION, id="empty-version"),
        pytest.param(spop_peer.hello(max_frame_size=255), Status.BAD_MAX_FRAME_SIZE, id="small-size"),
        pytest.param(spop_peer.hello(flags=0), Status.FRAGMENTATION_NOT_SUPPORTED, id="fragmented"),
        pytest.param(spop_peer.hello(stream_id=1), Status.INVALID, id="stream-id"),
        pytest.param(spop_peer.hello(frame_id=1), Status.INVALID, id="frame-id"),
        pytest.param(spop_peer.hello(), None, id="good"),
        pytest.param(spop_peer.hello(versions="1.5, 2.1"), None, id="minor-version-and-spaces"),
        pytest.param(spop_peer.hello(max_frame_size=256), None, id="least-size"),
        pytest.param(spop_peer.hello(healthcheck=False), None, id="no-healthcheck"),
        pytest.param(spop_peer.hello(capabilities="telepathy"), None, id="unknown-capability"),
    ],
)
def test_hello_items(frame: bytes, status: Status | None) -> None:
    """SPOE.txt 3.2.4 and 3.5: what is mandatory, and the code for each thing that is wrong with it."""
    connection = SPOPConnection()
    if status is None:
        connection.receive_data(frame)
        assert isinstance(connection.events_received()[0], HelloReceived)
        return
    with pytest.raises(ProtocolError) as caught:
        connection.receive_data(frame)
    assert caught.value.status is status
    assert spop_peer.parse(connection.data_to_send()) == [AgentDisconnect(status, caught.value.reason)]


@pytest.mark.parametrize("item", ["supported-versions", "max-frame-size", "capabilities"])
def test_hello_items_of_the_wrong_type(item: str) -> None:
    """An item of another type counts as missing."""
    wrong = spop_peer.frame(
        1,
        spop_peer.items(
            {
                "supported-versions": string("2.0"),
                "max-frame-size": spop_peer.integer(16380),
                "capabilities": string(""),
            }
            | {item: spop_peer.boolean(True)}
        ),
    )
    with pytest.raises(ProtocolError, match=f"{item} not found"):
        SPOPConnection().receive_data(wrong)


def test_unknown_hello_items_are_ignored() -> None:
    """HAProxy may say more than SPOE.txt lists."""
    frame = spop_peer.hello()
    extra = spop_peer.items({"novelty": spop_peer.ip("::1")})
    longer = (len(frame) - 4 + len(extra)).to_bytes(4, "big") + frame[4:] + extra
    connection = SPOPConnection()
    connection.receive_data(longer)
    assert isinstance(connection.events_received()[0], HelloReceived)


def test_disconnect_without_items() -> None:
    """A peer that leaves without saying why has left all the same."""
    connection = open_connection()
    connection.receive_data(spop_peer.frame(2))
    assert connection.events_received() == [Disconnected(Status.UNKNOWN, "")]
