"""A pool: as many replicas as are wanted, of the configuration that is wanted, one step after another.

`next_steps` decides from the replicas that stand; `Pool` carries the steps out, decides again whenever something
changed, and alone makes and stops supervisors. A roll goes replica by replica: one of the wanted configuration is added
and takes requests before one of another drains and ends, so the pool never has fewer that serve than before. When vLLM
refuses the first of them, the roll ends there: the replicas that served before go on, and their configuration is wanted
again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from pointsman.contract.pools import PoolMember, PoolStatus
from pointsman.engine.vllm.errors import VllmConfigError, VllmError
from pointsman.engine.vllm.fleet.actor import Incarnation
from pointsman.engine.vllm.fleet.config import PoolConfig
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.fleet.spec import replica_id
from pointsman.engine.vllm.fleet.supervisor import Condition, ConfigProven, ReplicaSupervisor


@dataclass(slots=True)
class Member:
    """One replica of the pool, from the decision to have it until it is gone."""

    number: int
    revision: str
    supervisor: ReplicaSupervisor
    task: asyncio.Task[None] = field(init=False)
    routed: bool = False
    leaving: bool = False
    stopped: bool = False
    """Whether its supervisor was stopped."""
    routing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.supervisor.condition is Condition.READY

    @property
    def serves(self) -> bool:
        """Ready, and requests come to it."""
        return self.ready and self.routed


@dataclass(frozen=True, slots=True)
class Steps:
    """Return the next steps: numbers of replicas to start, and to drain and end."""

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
    """Owner of a pool's replicas. `scale`, `put` and `stop` set what is wanted; `run` makes it so."""

    def __init__(self, config: PoolConfig, environment: PoolEnvironment, *, must_start: bool = True) -> None:
        self._config = config
        self._environment = environment
        self._must_start = must_start
        self._before: PoolConfig | None = None
        self._members: dict[int, Member] = {}
        self._proven_configs: dict[str, ConfigProven] = {}
        self._error = ""
        self._refused = ""
        """Revision that vLLM refused while nothing else could serve: not tried again."""
        self._stopping = False
        self._changed = asyncio.Event()
        self._reported = (-1, -1)

    @property
    def config(self) -> PoolConfig:
        """Wanted configuration and number of replicas."""
        return self._config

    def adopt(self, number: int, revision: str, incarnation: Incarnation, *, stopping: bool) -> None:
        """Take over a replica that another driver left, of whatever configuration; one that drains goes on draining."""
        self._add(number, revision, self._config, first=incarnation)
        self._members[number].leaving = stopping

    def scale(self, replicas: int) -> None:
        """Want another number of replicas. Raises VllmConfigError beyond the pool's limits."""
        self._want(_replaced(self._config, replicas=replicas))

    def put(self, config: PoolConfig) -> None:
        """Want another configuration of the same name; replicas that differ are rolled. Raises VllmConfigError."""
        if config.name != self._config.name:
            raise VllmConfigError("name", config.name, f"{self._config.name!r}: a pool keeps its name")
        self._want(config)

    def stop(self) -> None:
        """Drain and end every replica; asked again, end them at once."""
        self._stopping = True
        for member in self._members.values():
            member.supervisor.stop()
        self._changed.set()

    def leave_alone(self) -> None:
        """Let the replicas go on without this driver when `run` is cancelled."""
        for member in self._members.values():
            member.supervisor.leave_alone()

    async def run(self) -> None:
        """Run until stopped and empty. Raises vLLM's refusal when the pool `must_start` and none of it ever served."""
        try:
            while not (self._stopping and not self._members):
                self._changed.clear()
                self._reconcile()
                self._report_ready()
                self._environment.on_change()
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
            revision=self._environment.revision(self._config),
            error=self._error,
            members=[
                PoolMember(
                    id=replica_id(self._config.name, member.number),
                    state=str(member.supervisor.condition),
                    revision=member.revision,
                    deaths=member.supervisor.deaths,
                    urls=[rank.url for rank in member.supervisor.started],
                )
                for _, member in sorted(self._members.items())
            ],
        )

    # Steps

    def _want(self, config: PoolConfig) -> None:
        if self._environment.revision(config) != self._environment.revision(self._config):
            self._before = self._config
        self._config = config
        self._refused = self._error = ""
        self._changed.set()

    def _reconcile(self) -> None:
        """Remove the members that ended, then take the next steps."""
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
        revision = self._environment.revision(self._config)
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
        if not member.stopped:
            member.stopped = True
            member.supervisor.stop()

    def _add(self, number: int, revision: str, config: PoolConfig, first: Incarnation | None = None) -> None:
        found = [first] if first is not None else []

        def next_incarnation() -> Incarnation:
            if found:
                return found.pop()
            member.revision = self._environment.revision(config)
            return self._environment.incarnation(config, number)

        supervisor = ReplicaSupervisor(
            replica_id(config.name, number),
            next_incarnation,
            self._proven_configs.setdefault(revision, ConfigProven()),
            self._environment,
            on_change=self._changed.set,
        )
        member = Member(number, revision, supervisor)
        self._members[number] = member
        member.task = asyncio.create_task(supervisor.run(), name=replica_id(config.name, number))
        member.task.add_done_callback(lambda task: self._changed.set())

    async def _await_routing(self, member: Member) -> None:
        await self._environment.wait_routed([rank.replica for rank in member.supervisor.started])
        member.routed = True
        self._changed.set()

    def _take_refusal(self, member: Member, error: BaseException) -> None:
        if not isinstance(error, VllmError):
            raise error
        self._error = str(error)
        served = any(proven.served for proven in self._proven_configs.values())
        if self._before is not None and served:
            self._environment.say(f"pool {self._config.name}: roll given up: {error}")
            self._config = _replaced(self._before, replicas=self._config.replicas)
            self._before = None
        elif self._must_start and not served:
            raise error
        else:
            self._refused = member.revision
            self._environment.say(f"pool {self._config.name}: refused: {error}")

    # What is reported

    @property
    def _ready(self) -> int:
        return sum(member.ready for member in self._members.values())

    def _state(self) -> str:
        revision = self._environment.revision(self._config)
        if self._stopping:
            return "stopping"
        if self._refused:
            return "refused"
        if any(m.revision != revision for m in self._members.values()):
            return "rolling"
        if len(self._members) > self._config.replicas or self._ready < self._config.replicas:
            return "scaling"
        return "ready"

    def _report_ready(self) -> None:
        ready, wanted = counts = (self._ready, self._config.replicas)
        if counts != self._reported:
            self._reported = counts
            self._environment.say(f"pool {self._config.name}: {ready} of {wanted} ready")


def _replaced(config: PoolConfig, *, replicas: int) -> PoolConfig:
    """The configuration with another size, which must be within its limits."""
    if not 1 <= replicas <= config.replicas_max:
        raise VllmConfigError("replicas", replicas, f"1 to {config.replicas_max}")
    return msgspec.structs.replace(config, replicas=replicas)
