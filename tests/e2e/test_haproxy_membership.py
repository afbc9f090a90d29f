"""Servers come, drain, move, die and leave in the real HAProxy, without a reload and without cutting a stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from haproxy_fixture import Edge, Received, StubReplica, running_edge, servers_state, until
from held_ports import pick_ports

from pointsman.haproxy.errors import CommandRefused
from pointsman.haproxy.reconcile import DesiredServer, Observation
from pointsman.haproxy.server_options import ServerOptions

pytestmark = pytest.mark.e2e

SELDOM_CHECKED = ServerOptions(inter_ms=60_000, fastinter_ms=60_000, downinter_ms=60_000)


class Stream:
    """A client in the middle of a streamed answer."""

    def __init__(self, edge: Edge, replica: StubReplica) -> None:
        self._edge = edge
        self._go_on = asyncio.Event()
        self._begun = asyncio.Event()
        replica.on_request = self._answer

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        self._begun.set()
        await self._go_on.wait()
        writer.write(b"6\r\n world\r\n0\r\n\r\n")
        return True

    async def begin(self) -> None:
        self._answered = asyncio.create_task(self._edge.ask())
        await self._begun.wait()

    async def finish(self) -> None:
        """The rest of the answer arrives."""
        self._go_on.set()
        answer = await self._answered
        assert (answer.status, answer.body) == (200, b"hello world")


def desired(*replicas: StubReplica) -> dict[str, DesiredServer]:
    return {replica.name: replica.desired for replica in replicas}


async def until_observed(edge: Edge, wanted: dict[str, DesiredServer], **health: str) -> Observation:
    """Step until exactly these servers are there with this health."""
    seen: list[Observation] = []

    async def reached() -> bool:
        seen.append(await edge.reconciler.step(wanted))
        return {name: server.health for name, server in seen[-1].servers.items()} == health

    await until(reached)
    return seen[-1]


async def test_an_edge_that_starts_empty_gets_its_servers(tmp_path: Path) -> None:
    """Added at run time, checked, used, and there is nothing more to do."""
    async with running_edge(tmp_path, replicas=2, servers=()) as edge:
        assert (await edge.ask()).status == 503
        wanted = desired(*edge.replicas.values())
        first = await edge.reconciler.step(wanted)
        assert first.changed
        assert {server.admin for server in first.servers.values()} == {"ready"}
        assert (await edge.ask()).status == 200
        await until_observed(edge, wanted, r1="up", r2="up")
        assert not (await edge.reconciler.step(wanted)).changed


async def test_added_and_configured_servers_have_the_same_id(tmp_path: Path) -> None:
    """So that a session hashed by HAProxy alone keeps its replica over a restart of the edge."""
    async with running_edge(tmp_path, replicas=2) as edge:
        await edge.router.stop()
        before = {server.name: server.id for server in await servers_state(edge.api)}
        sessions = [[("x-session-id", str(number))] for number in range(20)]
        homes = [(await edge.ask(headers=headers)).replica for headers in sessions]
        await until_observed(edge, {})
        wanted = desired(*edge.replicas.values())
        await until_observed(edge, wanted, r1="up", r2="up")
        assert {server.name: server.id for server in await servers_state(edge.api)} == before
        assert [(await edge.ask(headers=headers)).replica for headers in sessions] == homes


@pytest.mark.parametrize("configured", [True, False], ids=["in the file", "added at run time"])
async def test_a_leaving_server_finishes_its_streams(tmp_path: Path, configured: bool) -> None:
    """Maintenance at once, deletion after the last byte; servers of the file leave like any other."""
    async with running_edge(tmp_path, replicas=2, **({} if configured else {"servers": ()})) as edge:
        r1, r2 = edge.replicas.values()
        await until_observed(edge, desired(r1, r2), r1="up", r2="up")
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}
        stream = Stream(edge, r2)
        await stream.begin()
        for _ in range(3):
            leaving = (await edge.reconciler.step(desired(r1))).servers["r2"]
            assert (leaving.admin, leaving.sessions) == ("maint", 1)
        assert (await edge.ask()).replica == "r1"
        await stream.finish()
        await until_observed(edge, desired(r1), r1="up")
        assert (await edge.ask()).replica == "r1"


async def test_a_draining_server_gets_nothing_by_itself(tmp_path: Path) -> None:
    """HAProxy leaves it out, the router may still name it, its streams go on, and it can come back."""
    async with running_edge(tmp_path, replicas=2) as edge:
        r1, r2 = edge.replicas.values()
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}
        stream = Stream(edge, r2)
        await stream.begin()
        wanted = desired(r1) | {"r2": r2.desired._replace(drain=True)}
        seen = await edge.reconciler.step(wanted)
        assert (seen.servers["r2"].admin, seen.servers["r2"].health, seen.servers["r2"].sessions) == ("drain", "up", 1)
        r2.on_request = None
        assert (await edge.ask()).replica == "r2"
        served = [(await edge.ask("GET", "/v1/models", b"")).replica for _ in range(20)]
        assert set(served) == {"r1"}
        await stream.finish()
        seen = await edge.reconciler.step(desired(r1, r2))
        assert seen.servers["r2"].admin == "ready"


async def test_a_server_that_moves_keeps_its_name(tmp_path: Path) -> None:
    """A replica restarted on another port: idle connections to the old address are not used again."""
    async with running_edge(tmp_path, replicas=1) as edge:
        r1 = edge.replicas["r1"]
        assert (await edge.ask()).status == 200
        moved = StubReplica("r1", pick_ports(1)[0])
        await moved.start()
        try:
            await until_observed(edge, desired(moved), r1="up")
            for _ in range(5):
                assert (await edge.ask()).status == 200
            assert len(moved.received) == 5
            assert len(r1.received) == 1
        finally:
            await moved.stop()


async def test_a_dead_replica_leaves_and_comes_back(tmp_path: Path) -> None:
    """By its health check alone, no request is needed; and no request fails meanwhile."""
    async with running_edge(tmp_path, replicas=2) as edge:
        await edge.replicas["r2"].stop()
        for _ in range(20):
            assert (await edge.ask()).status == 200
        await edge.servers_are("down", "r2")
        await edge.replicas["r2"].start()
        await edge.servers_are("up", "r2")
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}
        assert (await edge.ask()).replica == "r2"


async def test_refused_connections_mark_a_replica_down(tmp_path: Path) -> None:
    """Three in a row are enough, without waiting for the health check."""
    async with running_edge(tmp_path, replicas=2, servers=(), server_options=SELDOM_CHECKED) as edge:
        wanted = desired(*edge.replicas.values())
        await edge.reconciler.step(wanted)
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}
        await edge.replicas["r2"].stop()
        for _ in range(3):
            assert (await edge.ask()).replica == "r1"
        assert (await edge.reconciler.step(wanted)).servers["r2"].health == "down"


async def test_a_replica_that_says_it_is_not_well_leaves(tmp_path: Path) -> None:
    """vLLM's /health answers 503 when its engine is dead, though its port still accepts."""
    async with running_edge(tmp_path, replicas=2) as edge:
        edge.replicas["r2"].healthy = False
        await edge.servers_are("down", "r2")
        edge.replicas["r2"].healthy = True
        await edge.servers_are("up", "r2")


async def test_a_replica_that_hangs_leaves_after_its_time(tmp_path: Path) -> None:
    """Its port accepts and its health check gets no answer: down after `check_timeout_ms`, twice; then back."""
    async with running_edge(tmp_path, replicas=2, server_options=ServerOptions(check_timeout_ms=300)) as edge:
        edge.replicas["r2"].answers_health.clear()
        await edge.servers_are("down", "r2")
        edge.replicas["r2"].answers_health.set()
        await edge.servers_are("up", "r2")


async def test_a_replica_that_is_slow_to_say_it_is_well_stays(tmp_path: Path) -> None:
    """A check held up for three intervals, within the check's time: an engine that is busy is not dead."""
    async with running_edge(tmp_path, replicas=1) as edge:
        healthy = edge.replicas["r1"].answers_health
        healthy.clear()
        asyncio.get_running_loop().call_later(1.5, healthy.set)
        while not healthy.is_set():
            assert (await edge.ask()).status == 200
        (server,) = await edge.api.stat("fleet")
        assert server.status == "UP"


async def test_hundreds_of_servers_in_one_step(tmp_path: Path) -> None:
    """Joining and leaving together; the step after has nothing to do."""
    async with running_edge(tmp_path, replicas=1, servers=(), server_options=SELDOM_CHECKED) as edge:
        wanted = {f"n{number}": DesiredServer(f"n{number}", "127.0.0.1", 20_000 + number) for number in range(400)}
        seen = await edge.reconciler.step(wanted | desired(edge.replicas["r1"]))
        assert len(seen.servers) == 401
        assert not (await edge.reconciler.step(wanted | desired(edge.replicas["r1"]))).changed
        await edge.reconciler.step(desired(edge.replicas["r1"]))
        assert (await edge.reconciler.step(desired(edge.replicas["r1"]))).servers.keys() == {"r1"}


async def test_after_a_reload_everything_is_put_back(tmp_path: Path) -> None:
    """Another pid, the servers of the file alone; one step adds the others, and drains what was draining."""
    async with running_edge(tmp_path, replicas=3) as edge:
        r1, r2, _ = edge.replicas.values()
        added = StubReplica("added", pick_ports(1)[0])
        await added.start()
        try:
            wanted = desired(r1, r2, added) | {"r2": r2.desired._replace(drain=True)}
            before = await until_observed(edge, wanted, r1="up", r2="up", added="up")
            await edge.process.reload()
            after = await until_observed(edge, wanted, r1="up", r2="up", added="up")
            assert after.pid != before.pid
            assert {name: server.admin for name, server in after.servers.items()} == {
                "r1": "ready",
                "r2": "drain",
                "added": "ready",
            }
        finally:
            await added.stop()


async def test_process_variables(tmp_path: Path) -> None:
    """Set at run time, gone after a reload, unknown ones refused in HAProxy's words."""
    async with running_edge(tmp_path, replicas=1) as edge:
        assert await edge.api.get_variable("proc.pm.body") == "0"
        await edge.reconciler.set_variable("proc.pm.body", 3)
        assert await edge.api.get_variable("proc.pm.body") == "3"
        await edge.process.reload()
        await until(lambda: _is(edge, "0"))
        with pytest.raises(CommandRefused, match="not found"):
            await edge.api.get_variable("proc.pm.nothing")


async def _is(edge: Edge, value: str) -> bool:
    return await edge.api.get_variable("proc.pm.body") == value
