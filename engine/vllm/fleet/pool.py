"""A pool: as many replicas as are wanted, of the configuration that is wanted, one step after another.

`next_steps` decides from what stands; `Pool` carries it out, looks again whenever something changed, and is the only
one to make and stop keepers. A roll goes replica by replica: one of the wanted configuration is added and takes
requests before one of another drains and ends, so the pool never has fewer that serve than before. When the first of
them is refused by vLLM the roll ends there: what served before goes on and is wanted again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pointsman.contract.pools import PoolMember, PoolStatus
from pointsman.engine.vllm.errors import VllmConfigError, VllmError
from pointsman.engine.vllm.fleet.actor import Life
from pointsman.engine.vllm.fleet.cluster import Say
from pointsman.engine.vllm.fleet.config import PoolConfig
from pointsman.engine.vllm.fleet.keeper import Condition, Keeper, Proof
from pointsman.engine.vllm.fleet.spec import replica_id


class Bring:
    """What a pool needs of the cluster and the routers; `fleet` gives the real ones, tests their own."""

    def __init__(
        self,
        *,
        life: Callable[[PoolConfig, int], Life],
        revision: Callable[[PoolConfig], str],
        routed: Callable[[Iterable[str]], Coroutine[Any, Any, None]],
        drain_s: float,
        start_timeout_s: float,
        say: Say,
        on_change: Callable[[], None] = lambda: None,
        forget: Callable[[Iterable[str]], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.life = life
        self.revision = revision
        self.routed = routed
        """Returns when routers send requests to these replicas, or will not be waited for any longer."""
        self.drain_s = drain_s
        self.start_timeout_s = start_timeout_s
        self.say = say
        self.on_change = on_change
        """Told whenever a pool's status may differ."""
        self.forget = forget
        """Tells routers that these replicas are dead."""


@dataclass(slots=True)
class Member:
    """One replica of the pool, from the decision to have it until it is gone."""

    number: int
    revision: str
    keeper: Keeper
    task: asyncio.Task[None] = field(init=False)
    routed: bool = False
    leaving: bool = False
    told: bool = False
    """Its keeper knows that it leaves."""
    routing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.keeper.condition is Condition.READY

    @property
    def serves(self) -> bool:
        """Ready, and requests come to it."""
        return self.ready and self.routed


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do at once: numbers of replicas to start and of those to drain and end."""

    start: tuple[int, ...] = ()
    retire: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """A replica as `next_steps` sees it."""

    number: int
    fresh: bool
    """Of the wanted configuration."""
    serves: bool
    leaving: bool = False


def next_steps(wanted: int, standing: Iterable[Standing], *, surge: bool = True) -> Steps:
    """From what stands to `wanted` fresh replicas: scaling all at once, rolling one by one."""
    all_of_them = list(standing)
    staying = [one for one in all_of_them if not one.leaving]
    stale = [one for one in staying if not one.fresh]
    free = _free_numbers({one.number for one in all_of_them})
    if len(staying) < wanted:
        if not (stale and not surge) or all(one.serves for one in staying if one.fresh):
            return Steps(start=tuple(next(free) for _ in range(wanted - len(staying))))
        return Steps()
    excess = len(staying) - wanted
    if not stale:
        # What serves stays, then what has the lowest number.
        order = sorted(staying, key=lambda one: (one.serves, -one.number))
        return Steps(retire=tuple(one.number for one in order[:excess]))
    if len(staying) < len(all_of_them) or not all(one.serves for one in staying if one.fresh):
        return Steps()  # One at a time: the step before is not over.
    if excess or not surge:
        return Steps(retire=(min(stale, key=lambda one: (one.serves, one.number)).number,))
    return Steps(start=(next(free),))


def _free_numbers(taken: set[int]) -> Iterator[int]:
    return (number for number in itertools.count(1) if number not in taken)


class Pool:
    """Owner of a pool's replicas. `scale`, `put` and `stop` say what is wanted; `run` makes it so."""

    def __init__(self, config: PoolConfig, bring: Bring, *, must_start: bool = True) -> None:
        self._config = config
        self._bring = bring
        self._must_start = must_start
        self._before: PoolConfig | None = None
        self._members: dict[int, Member] = {}
        self._proofs: dict[str, Proof] = {}
        self._error = ""
        self._refused = ""
        """Revision that vLLM refused while nothing else could serve: not tried again."""
        self._stopping = False
        self._changed = asyncio.Event()
        self._said = (-1, -1)

    @property
    def config(self) -> PoolConfig:
        """What is wanted."""
        return self._config

    def adopt(self, number: int, revision: str, life: Life, *, stopping: bool) -> None:
        """Take over a replica that another driver left, of whatever configuration; one that drains goes on to."""
        self._add(number, revision, self._config, first=life)
        self._members[number].leaving = stopping

    def scale(self, replicas: int) -> None:
        """Raises VllmConfigError beyond the pool's limits."""
        self._want(_replaced(self._config, replicas=replicas))

    def put(self, config: PoolConfig) -> None:
        """Wants another configuration of the same name; what differs is rolled. Raises VllmConfigError."""
        if config.name != self._config.name:
            raise VllmConfigError("name", config.name, f"{self._config.name!r}: a pool keeps its name")
        self._want(config)

    def stop(self) -> None:
        """Drain and end every replica; asked again, end them at once."""
        self._stopping = True
        for member in self._members.values():
            member.keeper.stop()
        self._changed.set()

    def leave_alone(self) -> None:
        """When `run` is cancelled, the replicas go on without us."""
        for member in self._members.values():
            member.keeper.leave_alone()

    async def run(self) -> None:
        """Until stopped and empty. Raises what vLLM refused when the pool `must_start` and none of it ever served."""
        try:
            while not (self._stopping and not self._members):
                self._changed.clear()
                self._look()
                self._tell()
                self._bring.on_change()
                await self._changed.wait()
        finally:
            tasks = [task for m in self._members.values() for task in (m.task, m.routing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> PoolStatus:
        """The pool at this moment."""
        return PoolStatus(
            name=self._config.name,
            model=self._config.model_name,
            role=self._config.role,
            replicas=self._config.replicas,
            replicas_max=self._config.replicas_max,
            ready=self._ready,
            state=self._state(),
            revision=self._bring.revision(self._config),
            error=self._error,
            members=[
                PoolMember(
                    id=replica_id(self._config.name, member.number),
                    state=str(member.keeper.condition),
                    revision=member.revision,
                    deaths=member.keeper.deaths,
                    urls=[rank.url for rank in member.keeper.started],
                )
                for _, member in sorted(self._members.items())
            ],
        )

    # Steps

    def _want(self, config: PoolConfig) -> None:
        if self._bring.revision(config) != self._bring.revision(self._config):
            self._before = self._config
        self._config = config
        self._refused = self._error = ""
        self._changed.set()

    def _look(self) -> None:
        """One round: bury what ended, then take the next steps."""
        for number, member in list(self._members.items()):
            if member.task.done():
                del self._members[number]
                if not member.task.cancelled() and (error := member.task.exception()) is not None:
                    self._take_refusal(member, error)
            elif member.leaving and member.ready:
                self._retire(member)  # Adopted while it drained: it takes part again, to be drained to the end.
            elif member.ready and member.routing is None:
                member.routing = asyncio.create_task(self._await_routing(member))
            elif not member.ready and member.routing is not None:
                member.routing.cancel()
                member.routing, member.routed = None, False
        revision = self._bring.revision(self._config)
        if self._stopping or self._refused == revision:
            return
        standing = [Standing(m.number, m.revision == revision, m.serves, m.leaving) for m in self._members.values()]
        steps = next_steps(self._config.replicas, standing, surge=self._config.surge)
        for number in steps.start:
            self._add(number, revision, self._config)
        for number in steps.retire:
            self._retire(self._members[number])

    def _retire(self, member: Member) -> None:
        member.leaving = True
        if not member.told:
            member.told = True
            member.keeper.stop()

    def _add(self, number: int, revision: str, config: PoolConfig, first: Life | None = None) -> None:
        found = [first] if first is not None else []

        def next_life() -> Life:
            if found:
                return found.pop()
            member.revision = self._bring.revision(config)
            return self._bring.life(config, number)

        keeper = Keeper(
            replica_id(config.name, number),
            next_life,
            self._proofs.setdefault(revision, Proof()),
            self._bring.say,
            on_change=self._changed.set,
            forget=self._bring.forget,
            drain_s=self._bring.drain_s,
            start_timeout_s=self._bring.start_timeout_s,
        )
        member = Member(number, revision, keeper)
        self._members[number] = member
        member.task = asyncio.create_task(keeper.run(), name=replica_id(config.name, number))
        member.task.add_done_callback(lambda task: self._changed.set())

    async def _await_routing(self, member: Member) -> None:
        await self._bring.routed([rank.replica for rank in member.keeper.started])
        member.routed = True
        self._changed.set()

    def _take_refusal(self, member: Member, error: BaseException) -> None:
        if not isinstance(error, VllmError):
            raise error
        self._error = str(error)
        served = any(proof.served for proof in self._proofs.values())
        if self._before is not None and served:
            self._bring.say(f"pool {self._config.name}: roll given up: {error}")
            self._config = _replaced(self._before, replicas=self._config.replicas)
            self._before = None
        elif self._must_start and not served:
            raise error
        else:
            self._refused = member.revision
            self._bring.say(f"pool {self._config.name}: refused: {error}")

    # What is told

    @property
    def _ready(self) -> int:
        return sum(member.ready for member in self._members.values())

    def _state(self) -> str:
        revision = self._bring.revision(self._config)
        if self._stopping:
            return "stopping"
        if self._refused:
            return "refused"
        if any(m.revision != revision for m in self._members.values()):
            return "rolling"
        if len(self._members) > self._config.replicas or self._ready < self._config.replicas:
            return "scaling"
        return "ready"

    def _tell(self) -> None:
        ready, wanted = told = (self._ready, self._config.replicas)
        if told != self._said:
            self._said = told
            self._bring.say(f"pool {self._config.name}: {ready} of {wanted} ready")


def _replaced(config: PoolConfig, *, replicas: int) -> PoolConfig:
    """The configuration with another size, which must be within its limits."""
    if not 1 <= replicas <= config.replicas_max:
        raise VllmConfigError("replicas", replicas, f"1 to {config.replicas_max}")
    return msgspec.structs.replace(config, replicas=replicas)
