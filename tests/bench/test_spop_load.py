"""The frames and lines of the load at a router are those the router's own codec reads."""

from __future__ import annotations

import random

import pytest

from bench.pace import LoadError
from bench.spop_load import digest, end_line, hello, notify, prefix_keys, read_acks, request_id
from pointsman.contract.registration import Registration
from pointsman.haproxy.spop import HelloReceived, Notify, Scope, SPOPConnection, encode_set_vars
from pointsman.router.core import Core
from pointsman.router.decide.features import extract
from pointsman.router.fronts.ring import RingProtocol

ANSWER = encode_set_vars(Scope.TXN, {"first": "replica-1", "reason": "hash"})


def shaken() -> SPOPConnection:
    connection = SPOPConnection()
    connection.receive_data(hello())
    (event,) = connection.events_received()
    assert isinstance(event, HelloReceived)
    connection.data_to_send()
    return connection


@pytest.mark.parametrize("number", [1, 239, 240, 5000, 1_000_000])
def test_a_lookup_arrives_as_it_was_meant(number: int) -> None:
    """Ids and arguments come out of the router's codec and features unchanged."""
    connection = shaken()
    connection.receive_data(notify(number, "session-0007"))
    (event,) = connection.events_received()
    assert isinstance(event, Notify)
    features = extract(event.messages[0].args)
    assert (event.stream_id, features.request_id, features.session) == (number, request_id(number), "session-0007")
    assert (features.path, features.body_bytes, features.tenant) == ("/v1/chat/completions", 65_536, "")


def test_a_digest_is_that_of_the_lua_fetch() -> None:
    """Prefix keys and bytes seen come out of the router's features; conversations share the head of their keys."""
    keys, others = prefix_keys(3, 64), prefix_keys(4, 64)
    connection = shaken()
    connection.receive_data(notify(9, "session-0003", digest(keys, 65_536)))
    (event,) = connection.events_received()
    assert isinstance(event, Notify) and event.messages[0].name == "route-body"
    assert extract(event.messages[0].args).prefix_keys == tuple(keys)
    assert keys[:8] == others[:8] and not set(keys[8:]) & set(others[8:])


def test_acks_are_read_however_they_are_cut() -> None:
    """Stream ids of whole ACKs come out once, the rest is kept for later."""
    connection = shaken()
    for number in (1, 300, 70_000):
        connection.receive_data(notify(number, "s"))
    for event in connection.events_received():
        assert isinstance(event, Notify)
        connection.send_ack(event.stream_id, event.frame_id, ANSWER)
    data = connection.data_to_send()
    for cut in range(len(data) + 1):
        first, rest = read_acks(data[:cut])
        second, rest = read_acks(rest + data[cut:])
        assert (first + second, rest) == ([1, 300, 70_000], b"")


def test_an_ack_without_a_replica_ends_the_bench() -> None:
    """A router that has no opinion must not look fast."""
    connection = shaken()
    connection.receive_data(notify(1, "s"))
    connection.events_received()
    connection.send_ack(1, 1, b"")
    with pytest.raises(LoadError, match="without a replica"):
        read_acks(connection.data_to_send())


def test_another_frame_ends_the_bench() -> None:
    """AGENT-DISCONNECT is no ACK."""
    connection = shaken()
    connection.send_disconnect()
    with pytest.raises(LoadError, match="ACK"):
        read_acks(connection.data_to_send())


def test_an_end_line_closes_the_reservation_of_its_lookup() -> None:
    """The router reads the line and forgets the request's reservation."""
    core = Core({"policy": "least_load"}, rng=random.Random(1))
    core.replicas.put("replica-1", Registration(url="http://127.0.0.1:1"), ("127.0.0.1", 1), 0.0)
    core.requests.reserve(request_id(5), 0, 100, 0.0)
    metrics = core.request_metrics
    RingProtocol(core.end_of_request, metrics, set(), lambda: 0.0).data_received(end_line(5, "replica-1"))
    assert (len(core.load), metrics.lines, metrics.malformed_lines) == (0, 1, 0)
