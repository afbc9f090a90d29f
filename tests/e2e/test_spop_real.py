"""The SPOP codec against a real HAProxy: a small agent round `SPOPConnection`, asked by one SPOE engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from spoe_haproxy import RealHAProxy, real_haproxy

from pointsman.haproxy.spop import (
    Disconnected,
    Event,
    HealthCheck,
    HelloReceived,
    Notify,
    Scope,
    SetVar,
    SPOPConnection,
    State,
    Status,
    UnsetVar,
)
from pointsman.haproxy.spop.actions import Action

pytestmark = pytest.mark.e2e

SPOE = """
[tested]
spoe-agent tested-agent
    groups asked
    option var-prefix t
    option set-on-error err
    register-var-names err n yes ip bin text gone
    timeout hello 2s
    timeout idle 1m
    timeout processing 5s
    use-backend agents
spoe-message question
    args id=unique-id path=path body=req.body size=req.body_size
spoe-group asked
    messages question
"""
SHOW = "http-request return status 200 hdr x-{name} %[var(txn.t.{name})] if {{ var(txn.t.{name}) -m found }}"


class Agent:
    """Accepts HAProxy's connections, keeps what happens on them, answers with `answer`."""

    def __init__(self, answer: Callable[[Notify], list[Action]]) -> None:
        self.answer = answer
        self._events: list[Event] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: dict[SPOPConnection, asyncio.StreamWriter] = {}

    def events(self, kind: type[Event]) -> list[Event]:
        """Those of one kind so far."""
        return [event for event in self._events if isinstance(event, kind)]

    async def seen(self, kind: type[Event], number: int = 1) -> Event:
        """Wait for the `number`-th event of a kind."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.events(kind)) >= number)
        return self.events(kind)[number - 1]

    async def no_connection_left(self) -> None:
        """Wait until no connection is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.connections)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        spop = SPOPConnection()
        self.connections[spop] = writer
        while spop.state is not State.CLOSED:
            data = await reader.read(65536)
            if data:
                spop.receive_data(data)
            else:
                spop.receive_eof()
            events = spop.events_received()
            for event in events:
                if isinstance(event, Notify):
                    spop.send_ack(event.stream_id, event.frame_id, self.answer(event))
            writer.write(spop.data_to_send())
            async with self._changed:
                self._events += events
                self._changed.notify_all()
        writer.close()
        async with self._changed:
            del self.connections[spop]
            self._changed.notify_all()


@asynccontextmanager
async def served(
    answer: Callable[[Notify], list[Action]], *, rules: str = "", globals_: str = ""
) -> AsyncIterator[tuple[Agent, RealHAProxy]]:
    """An agent, and a HAProxy that has found it healthy."""
    agent = Agent(answer)
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, real_haproxy(port, SPOE, rules=rules, globals_=globals_) as edge:
        await agent.seen(HealthCheck)
        yield agent, edge


def shown(answer: str, name: str) -> str | None:
    """The header HAProxy made of a variable."""
    for line in answer.splitlines():
        if line.lower().startswith(f"x-{name}: "):
            return line.partition(": ")[2]
    return None


def echo(event: Notify) -> list[Action]:
    """Sets `text` to the path that was asked for."""
    path = event.messages[0].args["path"]
    assert isinstance(path, bytes)
    return [SetVar(Scope.TXN, "text", path.decode())]


async def test_two_hundred_requests_see_their_own_answers() -> None:
    """Requests at once, twenty at a time: each response carries the variable its own NOTIFY was answered with."""
    async with served(echo, rules="    " + SHOW.format(name="text")) as (agent, edge):
        for start in range(0, 200, 20):
            paths = [f"/{number}" for number in range(start, start + 20)]
            answers = await asyncio.gather(*(edge.request(path) for path in paths))
            assert [shown(answer, "text") for answer in answers] == paths
        assert len(agent.events(Notify)) == 200
        ids = {(event.stream_id, event.frame_id) for event in agent.events(Notify) if isinstance(event, Notify)}
        assert len(ids) == 200
        assert all(connection.in_flight == 0 for connection in agent.connections)


async def test_variables_of_every_type() -> None:
    """Each type of value an agent can set arrives as HAProxy's own, and an unset variable is gone."""
    rules = """
    http-request set-var(txn.t.gone) str(still)
    http-request send-spoe-group tested asked
    http-request set-header x-all "%[var(txn.t.n)] %[var(txn.t.yes)] %[var(txn.t.ip)] %[var(txn.t.bin),hex]"
    http-request return status 200 hdr x-all "%[req.hdr(x-all)] %[var(txn.t.text)] %[var(txn.t.gone)]."
    """
    actions: list[Action] = [
        SetVar(Scope.TXN, "n", -(2**40)),
        SetVar(Scope.TXN, "yes", True),
        SetVar(Scope.TXN, "bin", b"\x00\xff"),
        SetVar(Scope.TXN, "text", "x" * 300),
        UnsetVar(Scope.TXN, "gone"),
    ]
    async with served(lambda _: actions, rules=rules) as (_, edge):
        answer = await edge.request()
    assert shown(answer, "all") == f"{-(2**40)} 1  00FF {'x' * 300} ."


async def test_health_check_passes() -> None:
    """HAProxy's `option spop-check` takes our answer for a healthy agent's."""
    async with served(echo) as (agent, edge):
        await agent.seen(HealthCheck, 2)
        assert await edge.agent_status() == "UP L7OK"


async def test_a_large_body_comes_whole() -> None:
    """A frame of 200 KB arrives with every byte, over many reads."""
    body = bytes(range(256)) * 782
    globals_ = "    tune.bufsize 262144\n"
    async with served(echo, rules="    " + SHOW.format(name="text"), globals_=globals_) as (agent, edge):
        assert shown(await edge.request("/large", body=body), "text") == "/large"
        (event,) = agent.events(Notify)
    assert isinstance(event, Notify)
    assert event.messages[0].args["body"] == body
    assert event.messages[0].args["size"] == len(body)


async def test_haproxy_stops() -> None:
    """A HAProxy that is being stopped says goodbye; the agent answers and no connection is left."""
    async with served(echo) as (agent, edge):
        await edge.request()
        await edge.stop_softly()
        assert await agent.seen(Disconnected) == Disconnected(Status.NORMAL, "normal")
        await agent.no_connection_left()


async def test_a_polite_agent_loses_no_request() -> None:
    """After our goodbye HAProxy closes that connection and asks the next question on another."""
    async with served(echo, rules="    " + SHOW.format(name="text")) as (agent, edge):
        for number in range(20):
            assert shown(await edge.request(f"/{number}"), "text") == f"/{number}"
            for connection, writer in agent.connections.items():
                # A health check that is told goodbye has failed.
                if connection.state is State.OPEN:
                    connection.send_disconnect(Status.NORMAL, "rebalancing")
                    writer.write(connection.data_to_send())
            await agent.no_connection_left()
        assert len(agent.events(HelloReceived)) == 20


async def test_an_agents_error_is_haproxys_variable() -> None:
    """A connection that ends with a question open costs that request its answer, and `set-on-error` tells why."""
    async with served(echo, rules="    " + SHOW.format(name="err")) as (agent, edge):

        def leave(_: Notify) -> list[Action]:
            for connection in agent.connections:
                connection.send_disconnect(Status.RESOURCE_ALLOCATION, "enough")
            return []

        agent.answer = leave
        assert shown(await edge.request(), "err") == str(256 + Status.RESOURCE_ALLOCATION)
