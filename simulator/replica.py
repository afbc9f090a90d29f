"""One replica in virtual time: the modelled engine, and what it would tell routers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from pointsman.contract.events import EngineEvents, Finished, FirstToken, RequestUsage
from pointsman.contract.registration import Role
from pointsman.engine.sim.blocks import Stored
from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import SimRequest, StepResult
from pointsman.engine.sim.priority_model import engine_model
from pointsman.engine.sim.timeline import Outcome, Timeline
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace


class VirtualReplica:
    """An engine's timeline and its publisher of prefix keys.

    A replica knows the keys of the prompts it was sent and the blocks that hold them; it tells a key when the block the
    key ends in comes or goes.
    """

    def __init__(self, index: int, settings: FleetSettings, trace: Trace) -> None:
        self.index = index
        self.id = f"r{index}"
        self.role = Role.BOTH
        if settings.prefill_replicas:
            self.role = Role.DECODE if index < settings.replicas else Role.PREFILL
        self.pool = settings.pool(index)
        self.up = True
        self.lives = 1
        """Engines that have served under this id."""
        self.wake_s: float | None = None
        """When the fleet's clock next looks here; its owner's to set."""
        self.prefill_tokens = 0
        self.preemptions = 0
        self._config = ModelConfig(
            blocks=settings.kv_tokens // trace.block_size,
            block_size=trace.block_size,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            timing=settings.timing_of(index),
            scheduling_policy=settings.scheduling_policy,
        )
        self._messages = self._usages = 0
        self._keys_by_block: Mapping[int, tuple[int, ...]] = trace.keys_by_block
        self._timeline = Timeline(engine_model(self._config))

    def __repr__(self) -> str:
        return f"VirtualReplica({self.id}, {len(self._timeline.model)} requests)"

    @property
    def next_s(self) -> float:
        return self._timeline.next_s

    def add(self, request: SimRequest, now_s: float) -> None:
        self._timeline.add(request, now_s)

    def abort(self, request_id: str, now_s: float) -> None:
        """A request is dropped, or the blocks that are kept for it; nothing where it is not known."""
        if not self._timeline.abort(request_id, now_s):
            self._timeline.let_go(request_id, now_s)

    def let_go(self, request_id: str, now_s: float) -> bool:
        """Blocks kept for a leg were fetched; False when they are gone."""
        return self._timeline.let_go(request_id, now_s)

    def advance(self, now_s: float) -> list[Outcome]:
        outcomes = self._timeline.advance(now_s)
        for outcome in outcomes:
            self.prefill_tokens += outcome.result.prefill_tokens
            self.preemptions += len(outcome.result.preempted)
        return outcomes

    def restart(self) -> None:
        """An empty engine takes the place of this one; what it was doing is lost."""
        self._timeline = Timeline(engine_model(self._config))
        self.lives += 1
        self._messages = self._usages = 0

    def snapshot(self) -> EngineEvents:
        """The first message of a life: nothing is resident, and this is what there is room for."""
        capacity = self._config.blocks * self._config.block_size
        return EngineEvents(epoch=str(self.lives), seq=0, snapshot=True, capacity_tokens=capacity)

    def message(
        self,
        result: StepResult,
        first: list[FirstToken],
        finished: list[Finished],
        usage: list[RequestUsage] | None = None,
    ) -> EngineEvents | None:
        """Return the report of a step; None for nothing. Called once per step, in order."""
        stored, evicted = self._keys(result)
        if not (stored or evicted or first or finished):
            return None
        self._messages += 1
        usage_from, self._usages = self._usages, self._usages + len(usage or ())
        return EngineEvents(
            epoch=str(self.lives),
            seq=self._messages,
            stored=stored,
            evicted=evicted,
            first=first,
            finished=finished,
            usage=usage or [],
            usage_from=usage_from,
        )

    def _keys(self, result: StepResult) -> tuple[list[int], list[int]]:
        """The prefix keys that a step made resident, and those it made go."""
        stored: list[int] = []
        removed: list[int] = []
        keys_by_block = self._keys_by_block
        for event in result.events:
            into = stored if isinstance(event, Stored) else removed
            into += chain.from_iterable(keys_by_block[name] for name in event.hashes if name in keys_by_block)
        return stored, removed
