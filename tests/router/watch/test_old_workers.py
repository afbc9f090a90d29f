"""Old workers: which lines of a ring are new, whose ring is read, and when a worker may end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from pointsman.contract.registration import Registration
from pointsman.haproxy.errors import HAProxyError, HAProxyUnavailable, WorkerGone
from pointsman.haproxy.runtime_api import Info, ServerStat
from pointsman.router.core import Core
from pointsman.router.watch import old_workers
from pointsman.router.watch.old_workers import IDLE_ROUNDS, OldWorkers, UnseenLines


def line(request_id: str, ev: str = "end") -> bytes:
    """The begin of a line as HAProxy's log-format writes it."""
    return msgspec.json.encode({"ev": ev, "id": request_id, "pid": 1})


def applied(lines: list[bytes], *, last_id: str | None, reserved: tuple[str, ...] = ()) -> list[str]:
    """Ids of what is applied."""
    seen: list[bytes] = []
    UnseenLines(seen.append, last_id=last_id, reserved=reserved.__contains__).feed(lines)
    return [msgspec.json.decode(raw)["id"] for raw in seen]


def test_lines_are_applied_from_the_first_unseen_one_on() -> None:
    """A ring still holds what was sent long ago."""
    lines = [line("r1"), line("r2", "first"), line("r2"), line("r3", "first"), line("r3"), b"", line("r4")]
    assert applied(lines, last_id="r2") == ["r3", "r3", "r4"]


@pytest.mark.parametrize("last_id", [pytest.param("r0", id="overwritten meanwhile"), pytest.param(None, id="unknown")])
def test_without_the_last_seen_line_only_reserved_requests_are_new(last_id: str | None) -> None:
    """Their end cannot have been applied; of any other line nobody knows, and none counts twice."""
    assert applied([line("r1"), line("r2"), b"no JSON", line("r3")], last_id=last_id, reserved=("r2",)) == ["r2"]


class FakeConnection:
    """A kept connection to one worker, whose ring shows what is `put`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.is_open = True
        self.stopping = False
        self.dead = False
        self._batches: asyncio.Queue[list[bytes] | HAProxyError | None] = asyncio.Queue()

    async def info(self) -> Info:
        if self.dead:
            raise HAProxyUnavailable("closed without an answer")
        return Info(self.pid, "2.8.25", uptime_s=1, connections=1, stopping=self.stopping)

    async def ring(self, name: str) -> AsyncIterator[list[bytes]]:
        assert name == "events"
        while (batch := await self._batches.get()) is not None:
            if isinstance(batch, HAProxyError):
                raise batch
            yield batch

    def put(self, batch: list[bytes] | HAProxyError) -> None:
        self._batches.put_nowait(batch)

    def close(self) -> None:
        self.is_open = False
        self._batches.put_nowait(None)


class FakeMaster:
    """A master with workers; `connections` and `sessions` of each are what it is asked for."""

    def __init__(self) -> None:
        self.connections: dict[int, int] = {}
        self.sessions: dict[int, dict[str, int]] = {}
        self.away = False
        self.hung: set[int] = set()
        self.asked = 0

    async def workers(self) -> list[int]:
        self.asked += 1
        if self.away:
            raise HAProxyUnavailable("master")
        return list(self.connections)

    async def worker_info(self, pid: int) -> Info:
        if pid in self.hung:
            raise HAProxyUnavailable("no answer")
        if pid not in self.connections:
            raise WorkerGone("gone")
        return Info(pid, "2.8.25", uptime_s=1, connections=self.connections[pid], stopping=True)

    async def worker_stat(self, pid: int, backend: str) -> list[ServerStat]:
        assert backend == "fleet"
        busy = self.sessions.get(pid, {})
        return [ServerStat(backend, name, "UP", sessions, queued=0) for name, sessions in busy.items()]


class World:
    """A HAProxy with one worker, and what follows its reloads."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.core.replicas.put("a", Registration(url="http://10.0.0.1:1"), ("10.0.0.1", 1), 0.0)
        self.last_ids: dict[int, str] = {}
        self.lines: list[bytes] = []
        self.master = FakeMaster()
        self.connections: list[FakeConnection] = []
        self.current = 0
        self.core.end_of_request = self  # type: ignore[assignment]
        self.old = OldWorkers(
            connect=self._connect,  # type: ignore[arg-type]
            master=self.master,  # type: ignore[arg-type]
            backend="fleet",
            core=self.core,
            clock=lambda: 0.0,
        )
        self.start(1)

    def apply(self, line: bytes, now_s: float) -> None:
        self.lines.append(line)

    async def _connect(self) -> FakeConnection:
        self.connections.append(FakeConnection(self.current))
        return self.connections[-1]

    def start(self, pid: int) -> None:
        """A worker takes over."""
        self.current = pid
        self.master.connections[pid] = 1

    async def look(self) -> None:
        await self.old.look(self.current)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(old_workers, "RING_CLOSES_S", 0.0)
    made = World()
    yield made
    await made.old.close()


async def reloaded(world: World) -> FakeConnection:
    """The connection to the worker that a reload has replaced."""
    await world.look()
    (first,) = world.connections
    world.start(2)
    first.stopping = True
    await world.look()
    return first


async def test_nobody_is_asked_while_there_is_no_old_worker(world: World) -> None:
    """But once at the start, since there may be some; one connection is kept."""
    for _ in range(5):
        await world.look()
    assert world.master.asked == 1 and len(world.connections) == 1


async def test_the_ring_of_a_replaced_worker_is_read_from_its_last_seen_line_on(world: World) -> None:
    """At once and then as lines come, with its sessions counted beside."""
    world.last_ids[1] = "r1"
    world.master.sessions = {1: {"a": 2}}
    connection = await reloaded(world)
    connection.put([line("r0"), line("r1"), line("r2")])
    await world.look()
    assert world.lines == [line("r2")]
    connection.put([line("r3")])
    await world.look()
    assert world.lines == [line("r2"), line("r3")]
    assert (world.old.count, world.old.sessions, world.old.all_seen) == (1, {"a": 2}, True)


async def test_a_worker_that_is_not_stopping_yet_still_has_its_ring(world: World) -> None:
    """A new one may answer first; what its ring sends must not be read twice."""
    await world.look()
    (first,) = world.connections
    world.start(2)
    first.put([line("r1")])
    world.core.requests.reserve("r1", 0, 1, 0.0)
    await world.look()
    assert world.lines == []
    first.stopping = True
    await world.look()
    assert world.lines == [line("r1")]


async def test_a_worker_may_end_once_it_has_had_no_client_for_some_rounds(world: World) -> None:
    """Its last lines are read by then; one client that comes back starts the rounds anew."""
    connection = await reloaded(world)
    for connections in (0, 1):
        world.master.connections[1] = connections
        await world.look()
    world.master.connections[1] = 0
    for _ in range(IDLE_ROUNDS):
        assert connection.is_open
        await world.look()
    assert not connection.is_open
    del world.master.connections[1]
    await world.look()
    asked = world.master.asked
    await world.look()
    assert world.master.asked == asked and world.old.count == 0


async def test_haproxy_that_stops_is_followed_to_its_end(world: World) -> None:
    """No worker takes over: the ring of the last one is read, and it is let go."""
    await world.look()
    (only,) = world.connections
    only.stopping = True
    world.core.requests.reserve("r1", 0, 1, 0.0)
    only.put([line("r1")])
    world.current, world.master.connections[1] = None, 0  # type: ignore[assignment]
    for _ in range(IDLE_ROUNDS + 1):
        await world.look()
    assert world.lines == [line("r1")] and not only.is_open


async def test_nobody_is_asked_before_haproxy_is_there(world: World) -> None:
    """Nor told that old workers cannot be counted."""
    await world.old.look(None)
    assert world.master.asked == 0 and world.old.all_seen


async def test_a_worker_that_died_is_forgotten(world: World) -> None:
    """HAProxy was killed and started again."""
    await world.look()
    (first,) = world.connections
    first.dead = True
    del world.master.connections[1]
    world.start(2)
    await world.look()
    assert not first.is_open and [c.pid for c in world.connections] == [1, 2]


async def test_a_kept_connection_that_was_lost_is_opened_again(world: World) -> None:
    """Somebody closed it; the next reload finds one."""
    await world.look()
    world.connections[0].is_open = False
    await world.look()
    assert len(world.connections) == 2


async def test_old_workers_from_before_are_counted(world: World) -> None:
    """Their lines went to another router; their sessions are load all the same."""
    world.master.connections = {1: 1, 9: 1}
    world.master.sessions = {1: {"a": 5}, 9: {"a": 1, "b": 2}}
    await world.look()
    assert world.old.sessions == {"a": 1, "b": 2}


@pytest.mark.parametrize("fault", ["master", "worker"])
async def test_what_cannot_be_asked_is_said(world: World, fault: str) -> None:
    """Until it can be: nobody may take missing sessions for ended ones."""
    await reloaded(world)
    world.master.away, world.master.hung = fault == "master", {1} if fault == "worker" else set()
    await world.look()
    assert not world.old.all_seen
    world.master.away, world.master.hung = False, set()
    await world.look()
    assert world.old.all_seen


@pytest.mark.parametrize("fault", ["the socket", "a line"])
async def test_a_ring_that_cannot_be_read_on_lets_its_worker_end(world: World, fault: str) -> None:
    """Its sessions are counted further."""

    def refuse(raw: bytes) -> None:
        raise RuntimeError("a fault of ours")

    world.master.sessions = {1: {"a": 2}}
    world.core.requests.reserve("r1", 0, 1, 0.0)
    world.apply = refuse
    connection = await reloaded(world)
    connection.put(HAProxyUnavailable("cut") if fault == "the socket" else [line("r1")])
    await world.look()
    assert not connection.is_open and world.old.sessions == {"a": 2}
