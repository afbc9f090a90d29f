"""The edge sync: HAProxy's servers follow the registry, health and sessions come back."""

import random
from collections.abc import Mapping

import pytest
from other_task import another_task

from pointsman.contract.registration import Registration, Role
from pointsman.haproxy.errors import HAProxyUnavailable
from pointsman.haproxy.last_check import COLUMNS, CheckColumns, CheckRow
from pointsman.haproxy.lookup_rules import RULES_VARIABLE, LookupRules
from pointsman.haproxy.reconcile import DesiredServer, Observation, ObservedServer
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.body_needs import BodyNeeds
from pointsman.router.fleet.replica import Health
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.slices import SLICE_REPLICAS
from pointsman.router.watch.haproxy_servers import BODY_VARIABLE, WINDOW_VARIABLE, EdgeSync


class FakeHAProxy:
    """A reconciler whose HAProxy takes every wish at once. `sessions`, `down` and `checks` are what it observes."""

    def __init__(self) -> None:
        self.pid = 100
        self.away = False
        self.desired: dict[str, DesiredServer] = {}
        self.sessions: dict[str, int] = {}
        self.down: set[str] = set()
        self.checks: dict[str, CheckRow] = {}
        self.variables: list[tuple[str, int]] = []
        self.window = 16_384
        self.rules: LookupRules | None = None
        self.ring_lines = 0

    async def write_to_ring(self) -> None:
        self.ring_lines += 1

    async def step(self, desired: Mapping[str, DesiredServer], *, keep_others: bool = False) -> Observation:
        if self.away:
            raise HAProxyUnavailable("connection refused")
        self.desired = dict(desired)
        servers = {
            name: ObservedServer(
                name=name, host=server.host, port=server.port, health="down" if name in self.down else "up",
                admin="drain" if server.drain else "ready", sessions=self.sessions.get(name, 0),
                queued=0, id=1, checked=True, check=self.checks.get(name),
            )
            for name, server in desired.items()
        }  # fmt: skip
        return Observation(self.pid, servers, changed=False)

    async def set_variable(self, name: str, value: int) -> None:
        self.variables.append((name, value))

    async def get_variable(self, name: str) -> int:
        return {WINDOW_VARIABLE: self.window}.get(name, 0)

    async def get_text(self, name: str) -> str | None:
        return self.rules.stated() if self.rules is not None and name == RULES_VARIABLE else None


class World:
    """A registry with replicas a and b, and a sync to a fake HAProxy."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.haproxy = FakeHAProxy()
        config = CoreConfig(initial_health=Health.STARTING)
        self.core = Core({"policy": "least_load"}, rng=random.Random(1), config=config)
        self.load, self.requests, self.replicas = self.core.load, self.core.requests, self.core.replicas
        self.health = self.core.edge_health
        self.readiness = Readiness("haproxy")
        self.sync = EdgeSync(
            self.haproxy,  # type: ignore[arg-type]
            self.core,
            readiness=self.readiness,
            clock=lambda: self.now_s,
            interval_s=0.5,
        )
        for number, name in enumerate(("a", "b"), 1):
            self.replicas.put(name, Registration(url=f"http://h:{number}"), ("10.0.0.1", number), 0.0)

    async def round(self) -> None:
        self.now_s += 0.5
        await self.sync.round()


@pytest.fixture
def world() -> World:
    return World()


async def test_registered_replicas_become_servers_and_their_health_comes_back(world: World) -> None:
    """One round: both wished for, both up, HAProxy attached."""
    await world.round()
    assert world.haproxy.desired == {
        "a": DesiredServer("a", "10.0.0.1", 1, drain=False), "b": DesiredServer("b", "10.0.0.1", 2, drain=False)
    }  # fmt: skip
    assert [r.state for r in world.replicas] == ["up", "up"]
    assert world.health.haproxy_up and not world.readiness.missing()


async def test_a_router_that_begins_has_a_line_written_to_the_ring(world: World) -> None:
    """HAProxy may still hold the connection of the router before; a worker that came after a reload made a new one."""
    await world.round()
    await world.round()
    world.haproxy.pid = 200
    await world.round()
    assert world.haproxy.ring_lines == 1


async def test_a_server_marked_down_stops_being_eligible(world: World) -> None:
    """And is eligible again once its checks pass."""
    world.haproxy.down = {"a"}
    await world.round()
    assert world.replicas.get("a").health is Health.DOWN  # type: ignore[union-attr]
    world.haproxy.down = set()
    await world.round()
    assert world.replicas.get("a").health is Health.UP  # type: ignore[union-attr]


async def test_the_check_that_took_a_server_out_is_kept_for_people(world: World) -> None:
    """With the time of the round that saw it; an address that nobody checked yet has none."""
    world.haproxy.checks = {"a": CheckRow(CheckColumns.among(COLUMNS), "L7STS,404,7,,Layer7 wrong status")}
    await world.round()
    seen = world.replicas.checks.of(world.replicas.slot_of("a"))
    assert seen is not None and (seen.check.code, seen.seen_s) == (404, world.now_s)
    assert world.replicas.checks.of(world.replicas.slot_of("b")) is None
    world.replicas.remove("a")
    world.replicas.put("c", Registration(url="http://h:3"), ("10.0.0.1", 3), 0.0)
    assert world.replicas.checks.of(world.replicas.slot_of("c")) is None


async def test_draining_is_wished_for_and_removal_is_the_end_of_the_wish(world: World) -> None:
    """The registry says what should be; the reconciler does the rest."""
    world.replicas.drain("a", 0.0)
    world.replicas.remove("b")
    await world.round()
    assert world.haproxy.desired == {"a": DesiredServer("a", "10.0.0.1", 1, drain=True)}
    world.replicas.undrain("a", 1.0)
    await world.round()
    assert world.haproxy.desired == {"a": DesiredServer("a", "10.0.0.1", 1, drain=False)}


async def test_of_a_prefill_replica_health_is_checked_and_nothing_else(world: World) -> None:
    """Drained in HAProxy from the start; its legs, which HAProxy does not see, are not taken for leaked."""
    world.replicas.put("p", Registration(url="http://h:3", role=Role.PREFILL), ("10.0.0.1", 3), 0.0)
    await world.round()
    assert world.haproxy.desired["p"].drain
    replica = world.replicas.get("p")
    assert replica is not None and replica.state == "up"
    world.requests.reserve("r", world.replicas.slot_of("a"), 100, world.now_s)
    world.requests.reserve_prefill("r", replica.slot, 100)
    world.haproxy.sessions = {"a": 1}
    for _ in range(20):
        await world.round()
    assert world.load.in_flight[replica.slot] == 1


async def test_sessions_nobody_placed_become_load(world: World) -> None:
    """Two rounds with four sessions on b."""
    world.haproxy.sessions = {"b": 4}
    await world.round()
    await world.round()
    assert world.load.in_flight[world.replicas.get("b").slot] == 4  # type: ignore[union-attr]


async def test_haproxy_away_keeps_what_was_known(world: World) -> None:
    """Health stays, readiness and a counter tell; back again, all is well by itself."""
    await world.round()
    world.haproxy.away = True
    with pytest.raises(HAProxyUnavailable):
        await world.round()
    world.sync._failed(HAProxyUnavailable("connection refused"))
    assert [r.state for r in world.replicas] == ["up", "up"]
    assert world.readiness.missing() == ["haproxy: connection refused"]
    assert world.health.sync_errors == 1 and not world.health.haproxy_up
    world.haproxy.away = False
    await world.round()
    assert not world.readiness.missing()


async def test_body_needs_are_told_on_change_and_after_a_restart(world: World) -> None:
    """A process variable is gone with its process."""
    await world.round()
    await world.round()
    world.core.pipeline.swap_policies(PolicySet(build_policy({"policy": "kv_cost"})))
    await world.round()
    world.haproxy.pid = 101
    await world.round()
    by_kv = BodyNeeds.FIELDS_WITHOUT_SESSION | BodyNeeds.PREFIX_KEYS
    assert world.haproxy.variables == [(BODY_VARIABLE, needs) for needs in (0, by_kv, by_kv)]
    assert world.health.restarts_seen == 1


async def test_the_body_window_and_the_rules_are_read_off_each_haproxy(world: World) -> None:
    """A reload may bring others; within the life of a process they do not change."""
    await world.round()
    assert (world.health.body_window_bytes, world.health.lookup_rules) == (16_384, None)
    world.haproxy.window = 114_688
    world.haproxy.rules = LookupRules(session_headers=("x-session-id",))
    await world.round()
    assert (world.health.body_window_bytes, world.health.lookup_rules) == (16_384, None)
    world.haproxy.pid = 101
    await world.round()
    assert (world.health.body_window_bytes, world.health.lookup_rules) == (114_688, world.haproxy.rules)


class FakeOldWorkers:
    """Old workers with the sessions they are given."""

    def __init__(self) -> None:
        self.looks: list[int | None] = []
        self.sessions: dict[str, int] = {}
        self.all_seen = True
        self.count = 0

    async def look(self, current: int | None) -> None:
        self.looks.append(current)


@pytest.fixture
def old_workers(world: World) -> FakeOldWorkers:
    """Those of the world's HAProxy."""
    world.sync._old_workers = fake = FakeOldWorkers()  # type: ignore[assignment]
    return fake


async def test_without_the_masters_socket_a_reload_spares_all_reservations(world: World) -> None:
    """Whose streams run on where nobody can count them, so a comparison proves nothing."""
    await world.round()
    slot = world.replicas.get("a").slot  # type: ignore[union-attr]
    world.requests.reserve("r", slot, 1, now_s=world.now_s)
    world.haproxy.pid = 101
    for _ in range(20):
        await world.round()
    assert world.requests.is_reserved("r")


async def test_sessions_of_old_workers_count_with_those_of_the_current_one(
    world: World, old_workers: FakeOldWorkers
) -> None:
    """A reservation lasts while a worker has its session, whichever, and goes when none has; work that nobody reserved
    stays load over a reload."""
    a, b = (world.replicas.get(name).slot for name in ("a", "b"))  # type: ignore[union-attr]
    world.haproxy.sessions = {"b": 2}
    await world.round()
    await world.round()
    world.requests.reserve("r", a, 1, now_s=world.now_s)
    world.haproxy.pid, world.haproxy.sessions = 101, {"b": 1}
    old_workers.sessions, old_workers.count = {"a": 1, "b": 1}, 1
    for _ in range(20):
        await world.round()
        assert (world.load.in_flight[a], world.load.in_flight[b]) == (1, 2)
    assert world.health.old_workers == 1
    old_workers.sessions = {}
    for _ in range(5):
        await world.round()
    assert not world.requests.is_reserved("r") and world.load.in_flight[b] == 1


async def test_nothing_leaks_while_an_old_worker_cannot_be_asked(world: World, old_workers: FakeOldWorkers) -> None:
    """Its sessions may be the missing ones; once all are counted again, what nobody has goes."""
    slot = world.replicas.get("a").slot  # type: ignore[union-attr]
    world.requests.reserve("r", slot, 1, now_s=world.now_s)
    old_workers.all_seen = False
    for _ in range(20):
        await world.round()
    assert world.requests.is_reserved("r")
    old_workers.all_seen = True
    for _ in range(5):
        await world.round()
    assert not world.requests.is_reserved("r")


async def test_workers_are_looked_at_while_haproxy_stops_too(world: World, old_workers: FakeOldWorkers) -> None:
    """Nobody listens on the admin socket then, and the last streams still end."""
    world.haproxy.away = True
    with pytest.raises(HAProxyUnavailable):
        await world.round()
    assert old_workers.looks == [None]


async def test_others_run_while_a_round_goes_over_a_large_fleet(world: World) -> None:
    """Between slices of the fleet, both when it is wished for and when what was seen is applied."""
    for number in range(4 * SLICE_REPLICAS):
        world.replicas.put(f"r{number}", Registration(url=f"http://h:{number}"), ("10.0.0.2", 1 + number), 0.0)
    async with another_task() as turns:
        await world.round()
    assert turns.count >= 8
    assert all(replica.health is Health.UP for replica in world.replicas)


async def test_rounds_are_rare_at_rest_and_in_large_fleets(world: World) -> None:
    """Twice the interval while nothing is in flight and all are up; at least a millisecond a replica."""
    assert world.sync.pause_s() == 0.5  # nobody has been seen yet
    await world.round()
    assert world.sync.pause_s() == 1.0
    world.requests.reserve("r", 0, 1, world.now_s)
    assert world.sync.pause_s() == 0.5
    world.requests.end("r", world.now_s)
    world.haproxy.down = {"a"}
    await world.round()
    assert world.sync.pause_s() == 0.5
    for number in range(998):
        world.replicas.put(f"r{number}", Registration(url=f"http://h:{number}"), ("10.0.0.2", 1 + number), 0.0)
    assert world.sync.pause_s() == 1.0


async def test_haproxy_knows_aliases_of_the_stable_version_and_reads_names() -> None:
    """Its servers have the alias among their names, where they take it; with one model too, bodies are read for it."""
    world = World()
    for replica, model, renames in (("one", "m-v1", True), ("plain", "m-v1", False), ("two", "m-v2", True)):
        registration = Registration(url="http://h:1", model=model, renames_model=renames)
        world.core.replicas.put(replica, registration, ("10.0.0.1", 8000), 0.0)
    versions = [{"model": "m-v1", "weight": 9}, {"model": "m-v2", "weight": 1}]
    world.core.book.write("alias/chat", {"name": "chat", "versions": versions})
    await world.sync.round()
    desired = world.haproxy.desired
    assert (desired["one"].names, desired["one"].aliases) == ({"m-v1", "chat"}, {"chat"})
    assert (desired["plain"].names, desired["plain"].aliases) == ({"m-v1"}, frozenset())
    assert (desired["two"].names, desired["two"].aliases) == ({"m-v2"}, frozenset())
    for replica in ("plain", "two"):
        world.core.replicas.remove(replica)
    await world.sync.round()
    assert (BODY_VARIABLE, BodyNeeds.FIELDS | BodyNeeds.MODELS) in world.haproxy.variables
