"""The SPOP front: a shell that feeds, decides, answers and writes once."""

import asyncio

import pytest
import spop_peer
from router_fixture import client_of, register, running_router

from pointsman.haproxy.spop import Status
from pointsman.router.app import Router


def question(number: int, **arguments: bytes) -> bytes:
    """A NOTIFY as HAProxy sends it for one request."""
    asked = {"id": spop_peer.string(f"r-{number}"), "path": spop_peer.string("/v1/chat/completions"), **arguments}
    return spop_peer.notify(number, 1, spop_peer.message("route", **asked))


async def ask(router: Router, *frames: bytes) -> list[spop_peer.Ack]:
    """Sends frames in one write on a fresh connection; their ACKs."""
    address = router.addresses["spop"]
    async with spop_peer.connect(address.host, address.port) as peer:
        await peer.handshake()
        await peer.send(*frames)
        answers = [await peer.receive() for _ in frames]
        assert all(isinstance(answer, spop_peer.Ack) for answer in answers)
        return answers  # type: ignore[return-value]


async def test_a_lookup_is_answered_with_two_choices_and_a_reason() -> None:
    """The variables HAProxy's rules read."""
    async with running_router(policy={"policy": "least_load"}) as router:
        await register(router, "a", "b")
        (answer,) = await ask(router, question(1))
        assert answer.variables["txn.reason"] == "least-load"
        assert {answer.variables["txn.first"], answer.variables["txn.second"]} == {"a", "b"}


async def test_a_pair_is_answered_with_the_prefill_address() -> None:
    """One decision, both replicas; a short prompt is the decode replica's alone."""
    async with running_router(policy={"policy": "least_load"}) as router:
        await register(router, "d", role="decode")
        async with client_of(router) as client:
            await client.put("/v1/replicas/p", json={"url": "http://127.0.0.1:7", "role": "prefill"})
        long, short = await ask(
            router, question(1, size=spop_peer.integer(40_000)), question(2, size=spop_peer.integer(40))
        )
        assert (long.variables["txn.first"], long.variables["txn.prefill"]) == ("d", "127.0.0.1:7")
        assert "txn.prefill" not in short.variables


async def test_no_replica_is_an_answer_too() -> None:
    """Silence would cost the request HAProxy's whole timeout."""
    async with running_router() as router:
        (answer,) = await ask(router, question(1))
        assert answer.variables == {"txn.reason": "no-candidates"}


async def test_pipelined_lookups_are_all_answered_and_all_counted() -> None:
    """Fifty questions in one write: fifty answers, twenty-five in flight on each of two replicas."""
    async with running_router(policy={"policy": "least_load"}) as router:
        await register(router, "a", "b")
        answers = await ask(router, *(question(n) for n in range(50)))
        assert {answer.stream_id for answer in answers} == set(range(50))
        assert router.core.load.in_flight[:2].tolist() == [25, 25]


async def test_a_session_header_pins() -> None:
    """The session argument reaches the policy."""
    async with running_router(policy={"policy": "session_affinity"}) as router:
        await register(router, "a", "b", "c")
        session = {"session": spop_peer.string("s-1")}
        answers = await ask(router, *(question(n, **session) for n in range(9)))
        assert len({answer.variables["txn.first"] for answer in answers}) == 1
        assert answers[-1].variables["txn.reason"] == "session-pin"


async def test_odd_arguments_are_answered() -> None:
    """NULLs, wrong types and cut packets are absent features, not errors."""
    async with running_router() as router:
        await register(router, "a")
        odd = [
            question(1, session=spop_peer.null(), size=spop_peer.null(), body=spop_peer.null()),
            question(
                2, session=spop_peer.integer(5), size=spop_peer.string("x"), body=spop_peer.string(b"\xff\xff\x00")
            ),
            spop_peer.notify(3, 1, spop_peer.message("other")),
            spop_peer.notify(4, 1),
        ]
        assert [answer.variables["txn.first"] for answer in await ask(router, *odd)] == ["a"] * 4


async def test_a_broken_frame_ends_one_connection_and_is_counted() -> None:
    """The peer gets a DISCONNECT with a status; another connection goes on."""
    async with running_router() as router:
        address = router.addresses["spop"]
        async with spop_peer.connect(address.host, address.port) as peer:
            await peer.send(b"\x00\x00\x00\x08garbage!")
            frame = await peer.receive()
            assert isinstance(frame, spop_peer.AgentDisconnect) and frame.status != Status.NORMAL
            assert await peer.receive() is None
        assert router.core.decision_metrics.protocol_errors == 1
        await ask(router, question(1))


async def test_a_programming_error_closes_the_connection_and_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """HAProxy fails open for what was in flight there; the process serves on."""
    async with running_router(policy={"policy": "round_robin"}) as router:
        await register(router, "a")
        rank = router.core.pipeline.policy.rank
        router.core.pipeline.policy.rank = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
        address = router.addresses["spop"]
        async with spop_peer.connect(address.host, address.port) as peer:
            await peer.handshake()
            await peer.send(question(1))
            assert isinstance(await peer.receive(), spop_peer.AgentDisconnect)
        assert router.core.decision_metrics.lookup_errors == 1
        router.core.pipeline.policy.rank = rank  # type: ignore[method-assign]
        (answer,) = await ask(router, question(2))
        assert answer.variables["txn.first"] == "a"
        assert "ZeroDivisionError" in "".join(capsys.readouterr())


async def test_a_stopping_router_says_goodbye() -> None:
    """HAProxy reads a DISCONNECT with status 0, not a reset."""
    async with running_router() as router:
        address = router.addresses["spop"]
        peer_context = spop_peer.connect(address.host, address.port)
        peer = await peer_context.__aenter__()
        await peer.handshake()
    frame = await peer.receive()
    assert isinstance(frame, spop_peer.AgentDisconnect) and frame.status == Status.NORMAL
    await peer_context.__aexit__(None, None, None)


class FakeTransport(asyncio.Transport):
    """Remembers whether it is being read from."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


async def test_a_peer_that_does_not_read_its_answers_is_not_read_from() -> None:
    """Its answers would pile up in our memory; once it reads again, so do we."""
    async with running_router() as router:
        transport = FakeTransport()
        protocol = router._spop_protocol()
        protocol.connection_made(transport)
        protocol.pause_writing()
        assert not transport.reading
        protocol.resume_writing()
        assert transport.reading
        protocol.connection_lost(None)


async def test_connections_are_counted_while_open() -> None:
    """The gauge follows HAProxy's pool."""
    async with running_router() as router:
        address = router.addresses["spop"]
        async with spop_peer.connect(address.host, address.port) as peer:
            await peer.handshake()
            assert router.core.decision_metrics.spop_connections == 1
        while router.core.decision_metrics.spop_connections:
            await asyncio.sleep(0)
