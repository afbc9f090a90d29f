"""A seeded world of edges, engines, clients and a store, in which all goes wrong that can, and then no more.

Everything that decides and remembers is real: `Pipeline` and its tables, `EdgeProtocol`, `Sharing` with its loops, the
engines' `Publisher`. Simulated are time, the store (`faulty_store`), the engines' caches and HAProxy. After each step
the world checks what must hold at every moment; when the faults are healed and nothing is under way, what edges must
agree on.

    python tests/support/shared_world.py SEED [ACTIVE_S]        replays one seed and prints what happened
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from faulty_store import FaultyStore
from virtual_loop import run_virtually
from world_agreement import disagreements
from world_edges import Site, WorldEdge
from world_engines import WorldEngine

from pointsman.policies.request import RequestFeatures
from pointsman.router.edges.sharing import STREAM_ENTRIES
from pointsman.router.edges.store import Cause
from pointsman.router.fleet.sessions import MAX_CHANGED

ACTIVE_S = 12.0
"""How long things go wrong."""

QUIET_S = 20.0
"""Edges agree within this time after that: a lease, two rounds of all states, and a report of each engine."""

POLICIES: tuple[dict[str, Any], ...] = (
    {"policy": "kv_cost"},
    {"policy": "kv_cost", "kappa_full": 3.0},
    {"policy": "session_affinity", "fallback": {"policy": "least_load"}},
    {"policy": "prefix_affinity", "fallback": {"policy": "power_of_two"}},
    {"policy": "least_load"},
)
TRACED = 60
"""Of the last events, so many are told when something is wrong."""

LINE_S = 0.002


class Violation(AssertionError):  # noqa: N818 -- what it is called of an invariant
    """Something did not hold."""


class World:
    """One run. All chance comes from the seed."""

    def __init__(
        self, seed: int, *, active_s: float = ACTIVE_S, quiet_s: float = QUIET_S, verbose: bool = False
    ) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self._active_s = active_s
        self._quiet_s = quiet_s
        self._verbose = verbose
        self.trace: deque[str] = deque(maxlen=TRACED)
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.served = 0
        self.checks = 0
        self.agreed_after_s = 0.0
        self.store = FaultyStore(random.Random(rng.random()))
        self.edges_lived: list[WorldEdge] = []
        self._policy = rng.choice(POLICIES)
        self._stream_bytes = rng.choice((2_000, 20_000, 16_000_000))
        self._max_pending = rng.choice((40, 200, 262_144))
        self._errors: list[BaseException] = []
        self._line_loss = 0.0
        self._running: set[asyncio.Task[None]] = set()
        self.sites = [
            Site(f"s{n}", world=self, rng=random.Random(rng.random())) for n in range(rng.choice((2, 2, 3, 3, 4)))
        ]
        self.engines = [self._engine(n) for n in range(rng.randint(2, 5))]
        heads = [self._keys(3) for _ in range(2)]
        self._talks = {f"t{n}": [*rng.choice(heads), *self._keys(1)] for n in range(rng.randint(4, 14))}
        self._turns: Counter[str] = Counter()

    def _engine(self, n: int) -> WorldEngine:
        rng = self.rng
        leased = rng.random() < 0.7
        return WorldEngine(
            f"r{n}",
            port=9000 + n,
            capacity_keys=rng.choice((12, 30, 200)),
            leased=leased,
            reports=leased or rng.random() < 0.5,
            rng=random.Random(rng.random()),
        )

    def _keys(self, count: int) -> list[int]:
        return [self.rng.getrandbits(64) | 1 for _ in range(count)]

    # What happened

    def note(self, event: str) -> None:
        line = f"{asyncio.get_running_loop().time():8.3f}  {event}"
        self.trace.append(line)
        if self._verbose:
            print(line)

    def fail(self, what: str) -> Violation:
        events = "\n".join(self.trace)
        return Violation(
            f"{what}\n\nThe last events of seed {self.seed}:\n{events}\n\n"
            f"Again: python tests/support/shared_world.py {self.seed} {self._active_s:g}"
        )

    def task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    def _loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.append(context.get("exception") or RuntimeError(context["message"]))

    def raise_errors(self) -> None:
        for error in self._errors:
            if isinstance(error, Violation):
                raise error
            raise self.fail(f"{type(error).__name__}: {error}") from error

    # What must hold at every moment

    def check(self, edge: WorldEdge) -> None:
        self.checks += 1
        try:
            edge.validate()
            changed = edge.sessions.changed
            assert changed is not None
            assert len(changed) <= min(MAX_CHANGED, len(self._talks)), "more sessions wait than there are"
            assert len(edge.protocol._records) <= len(self.engines), "more registrations wait than there are replicas"
            assert len(edge.protocol._changed_documents) <= 1, "more documents wait than there are"
            assert len(edge.sharing._tasks) <= 3, "calls to the store pile up"
            assert len(edge.sharing._sizes) <= STREAM_ENTRIES, "more batches in the stream than the limit"
            assert edge.reserved() <= edge.under_way, "reservations from nowhere"
        except AssertionError as error:
            raise self.fail(f"{edge.name}: {error}") from error

    def _check_pick(self, edge: WorldEdge, picked: str) -> None:
        replica = edge.replicas.get(picked)
        if replica is None or replica.draining or replica.health != "up":
            raise self.fail(f"{edge.name} chose {picked}, which is {replica.state if replica else 'not registered'}")

    def serves(self, replica_id: str, port: int) -> bool:
        """Whether an engine answers there."""
        return any(engine.id == replica_id and engine.port == port and engine.alive for engine in self.engines)

    # Clients

    async def _request(self, request_id: str, site: Site, session: str) -> None:
        rng = self.rng
        self._turns[session] += 1
        self._talks[session] += self._keys(rng.randint(1, 3))
        if len(self._talks[session]) > 40:
            self._talks[session] = self._talks[session][:4]
        keys = tuple(self._talks[session])
        choices: list[str] = []
        edge = site.edge
        if edge is not None and not site.stalled:
            features = RequestFeatures(
                request_id=request_id, session=session, body_bytes=len(keys) * 512, max_tokens=100, prefix_keys=keys
            )
            edge.under_way.add(request_id)
            decision = edge.decide(features)
            choices = [name for name in (decision.first, decision.second) if name]
            for name in choices:
                self._check_pick(edge, name)
            self.note(f"{request_id} of {session} at {edge.name} goes to {decision.first or 'nobody'}")
            self.check(edge)
        choices += [engine.id for engine in rng.sample(self.engines, len(self.engines))]
        by_id = {engine.id: engine for engine in self.engines}
        engine = next((by_id[name] for name in choices if by_id[name].alive), None)
        status, ttft = 503, "-"
        if engine is not None:
            life = engine.life
            site.sessions[engine.id] += 1
            engine.running += 1
            try:
                await asyncio.sleep(rng.expovariate(1 / 0.3))
                status = 502
                if engine.alive and engine.life == life:
                    engine.compute(request_id, keys)
                    status, ttft = 200, "20"
                    await asyncio.sleep(rng.expovariate(1 / 0.7))
                    if engine.alive and engine.life == life:
                        engine.finish(request_id, keys)
                        self.served += 1
            finally:
                site.sessions[engine.id] -= 1
                engine.running -= 1
        await asyncio.sleep(LINE_S)
        if site.edge is None or rng.random() < self._line_loss:
            self.faults["lost line"] += 1
            return
        line = {"ev": "end", "id": request_id, "srv": engine.id if engine else "<NOSRV>", "st": status, "ttft": ttft}
        site.edge.core.end_of_request.apply(msgspec.json.encode(line), site.edge.clock())
        site.edge.under_way.discard(request_id)

    def _client(self) -> None:
        rng = self.rng
        self.requests += 1
        task = asyncio.create_task(
            self._request(f"q{self.requests}", rng.choice(self.sites), rng.choice(list(self._talks)))
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(self.task_done)

    # Faults

    def _for_a_while(self, fault: str, begin: Callable[[], None], end: Callable[[], None], mean_s: float = 2.0) -> None:
        self.faults[fault] += 1
        self.note(fault)
        begin()

        def over() -> None:
            self.note(f"over: {fault}")
            end()

        asyncio.get_running_loop().call_later(self.rng.expovariate(1 / mean_s), over)

    def _fault_of_the_way(self) -> None:
        """Between one edge and the store."""
        rng = self.rng
        site = rng.choice(self.sites)
        if site.edge is None:
            return
        edge, client = site.edge, site.edge.client
        kind = rng.choice(("slow way", "lossy way", "cut off"))
        if kind == "slow way":
            latency_s = rng.uniform(0.05, 0.8)
            self._for_a_while(
                f"slow way: {edge.name}",
                lambda: setattr(client, "latency_s", latency_s),
                lambda: setattr(client, "latency_s", 0.001),
            )
        elif kind == "lossy way":
            self._for_a_while(
                f"lossy way: {edge.name}", lambda: setattr(client, "loss", 0.3), lambda: setattr(client, "loss", 0.0)
            )
        else:
            self._for_a_while(
                f"cut off: {edge.name}",
                lambda: setattr(client, "cut", True),
                lambda: setattr(client, "cut", False),
                mean_s=3.0,
            )

    def _fault_of_the_store(self) -> None:
        rng, store = self.rng, self.store
        kind = rng.choice(("down", "full", "paused", "out of order", "emptied", "failed over"))
        if kind == "down":
            cause = rng.choice((Cause.UNREACHABLE, Cause.LOADING, Cause.READ_ONLY))
            self._for_a_while(
                f"store {cause}", lambda: setattr(store, "down", cause), lambda: setattr(store, "down", None)
            )
        elif kind == "full":
            self._for_a_while("store full", lambda: setattr(store, "full", True), lambda: setattr(store, "full", False))
        elif kind == "paused":
            self._for_a_while("store paused", lambda: setattr(store, "paused", True), store.go_on)
        elif kind == "out of order":
            self._for_a_while(
                "store out of order",
                lambda: setattr(store, "shuffles", True),
                lambda: setattr(store, "shuffles", False),
                mean_s=4.0,
            )
        else:
            self.faults[f"store {kind}"] += 1
            self.note(f"store {kind}")
            if kind == "emptied":
                store.empty()
            else:
                store.fail_over(rng.randint(1, 3))

    async def _fault_of_an_edge(self) -> None:
        rng = self.rng
        site = rng.choice(self.sites)
        edge = site.edge
        if edge is None:
            return
        kind = rng.choice(("killed", "killed", "stopped", "stalled"))
        if kind == "stalled":
            self._for_a_while(
                f"stalled: {edge.name}",
                lambda: self._stall(site, edge, True),
                lambda: self._stall(site, edge, False),
                mean_s=3.0,
            )
            return
        self.faults[f"edge {kind}"] += 1
        self.note(f"{kind}: {edge.name}")
        await site.stop(killed=kind == "killed")
        asyncio.get_running_loop().call_later(rng.expovariate(1 / 3.0), self._start, site)

    def _stall(self, site: Site, edge: WorldEdge, stalled: bool) -> None:
        edge.client.cut = stalled
        if site.edge is edge:
            site.stalled = stalled

    def _start(self, site: Site) -> None:
        if site.edge is not None:
            return
        edge = WorldEdge(
            f"{site.name}-{site.lives + 1}",
            store=self.store,
            policy=self._policy,
            clock=site.clock,
            rng=random.Random(self.rng.random()),
            max_pending=self._max_pending,
            stream_bytes=self._stream_bytes,
        )
        self.edges_lived.append(edge)
        keeps = self.rng.random() < 0.5
        self.note(f"starts: {edge.name}{', with its state file' if keeps and site.saved else ''}")
        site.start(edge, site.saved if keeps else ())

    def _fault_of_an_engine(self) -> None:
        rng = self.rng
        engine = rng.choice(self.engines)
        kind = rng.choice(("dies", "dies", "moves", "lossy way", "cut off"))
        if not engine.alive:
            return
        if kind in ("lossy way", "cut off"):
            if engine.reports:
                ways = engine.ways if kind == "lossy way" else [rng.choice(engine.ways)]
                loss = 0.4 if kind == "lossy way" else 1.0
                self._for_a_while(
                    f"{kind}: {engine.id}", lambda: self._lose(ways, loss), lambda: self._lose(ways, 0.0), mean_s=4.0
                )
            return
        self.faults[f"engine {kind}"] += 1
        self.note(f"{engine.id} {kind}")
        engine.die()
        if kind == "moves" and engine.leased:
            engine.port += 1000
        asyncio.get_running_loop().call_later(rng.expovariate(1 / 2.0), self._start_engine, engine)

    @staticmethod
    def _lose(ways: list[Any], loss: float) -> None:
        for way in ways:
            way.loss = loss

    def _start_engine(self, engine: WorldEngine) -> None:
        if not engine.alive:
            sites = self._some_sites()
            self.note(f"starts: {engine.id}, registers at {sites}")
            engine.start(sites, self.sites)

    def _some_sites(self) -> list[Site]:
        return self.rng.sample(self.sites, self.rng.randint(1, len(self.sites)))

    async def _person(self) -> None:
        """Somebody at the admin API of some edge."""
        rng = self.rng
        site = rng.choice(self.sites)
        edge = site.edge
        if edge is None or site.stalled:
            return
        engine = rng.choice(self.engines)
        deed = rng.choice(("drains", "undrains", "removes", "registers", "puts a policy", "moves to", "forgets"))
        session = rng.choice(list(self._talks))
        self.faults[f"person {deed}"] += 1
        whom = {"puts a policy": "", "moves to": f"{engine.id} {session}", "forgets": session}.get(deed, engine.id)
        self.note(f"a person at {edge.name} {deed} {whom}")
        if deed == "drains":
            edge.replicas.drain(engine.id, edge.clock())
        elif deed == "undrains":
            edge.replicas.undrain(engine.id, edge.clock())
        elif deed == "moves to":
            edge.sessions.move(session, engine.id, edge.clock())
        elif deed == "forgets":
            edge.core.forget_session(session, edge.clock())
        elif deed == "removes":
            edge.replicas.remove(engine.id)
        elif deed == "registers":
            edge.register(engine)
        else:
            await edge.put_policy(rng.choice(POLICIES))
        self.check(edge)

    # The run

    async def run(self) -> None:
        loop, rng = asyncio.get_running_loop(), self.rng
        loop.set_exception_handler(self._loop_error)
        for site in self.sites:
            self._start(site)
        for engine in self.engines:
            self._start_engine(engine)
            if not engine.leased and (edge := rng.choice(self.sites).edge) is not None:
                edge.register(engine)
        await asyncio.sleep(1.0)
        while loop.time() < self._active_s:
            await asyncio.sleep(rng.expovariate(12.0))
            await self._step()
            self.store.expire(loop.time())
            self.raise_errors()
        await self._calm()
        await self._agree()
        for site in self.sites:
            if site.edge is not None:
                await site.stop(killed=False)
        for engine in self.engines:
            engine.die()
        self.raise_errors()

    async def _step(self) -> None:
        roll = self.rng.random()
        if roll < 0.80:
            self._client()
        elif roll < 0.86:
            self._fault_of_the_way()
        elif roll < 0.90:
            self._fault_of_the_store()
        elif roll < 0.93:
            await self._fault_of_an_edge()
        elif roll < 0.96:
            self._fault_of_an_engine()
        elif roll < 0.98:
            await self._person()
        else:
            loss = self.rng.choice((0.0, 0.0, 0.2))
            self.note(f"lines get lost: {loss}")
            self._line_loss = loss

    async def _calm(self) -> None:
        """All that is wrong ends, and nothing is asked any more."""
        self._line_loss = 0.0
        if self._running:
            await asyncio.wait(set(self._running))
        await asyncio.sleep(15.0)  # what was to last for a while is over
        self.store.heal()
        self.note("calm")
        for site in self.sites:
            self._start(site)
            assert site.edge is not None
            site.stalled = False
            client = site.edge.client
            client.cut, client.loss, client.latency_s = False, 0.0, 0.001
        for engine in self.engines:
            self._lose(engine.ways, 0.0)
            if self.rng.random() < 0.7:
                self._start_engine(engine)

    async def _agree(self) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while True:
            await asyncio.sleep(1.0)
            self.raise_errors()
            differences = disagreements(self.sites, self.engines)
            if not differences:
                self.agreed_after_s = loop.time() - start_s
                return
            if loop.time() - start_s > self._quiet_s:
                raise self.fail(
                    f"no agreement {self._quiet_s:.0f} s after all was calm:\n" + "\n".join(differences[:12])
                )


def run_world(seed: int, *, active_s: float = ACTIVE_S, quiet_s: float = QUIET_S, verbose: bool = False) -> World:
    """One world, from its beginning to agreement. Raises Violation."""
    world = World(seed, active_s=active_s, quiet_s=quiet_s, verbose=verbose)
    run_virtually(world.run())
    return world


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    done = run_world(int(sys.argv[1]), active_s=float(sys.argv[2]) if len(sys.argv) > 2 else ACTIVE_S, verbose=True)
    print(f"no violation; {done.requests} requests, faults: {dict(done.faults)}, agreed after {done.agreed_after_s} s")
