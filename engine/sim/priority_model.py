"""The modelled engine with priority scheduling: `vllm serve --scheduling-policy priority`, as vLLM 0.32 does it.

The queue is in the order of priority, the lower number first, then of arrival. When a running sequence finds no block,
the running one of the greatest number that came last loses its blocks, and goes back to its place in the queue. What
runs is not reordered: running sequences have their tokens in the order in which they were admitted, and a step may hold
the prompts of several priorities.
"""

from __future__ import annotations

import itertools
from bisect import insort

from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult, _Sequence


class PriorityModel(EngineModel):
    """One replica's scheduler by priority, and its cache."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._arrivals = itertools.count()
        self._ranks: dict[str, tuple[int, int]] = {}
        """Priority and number of arrival, by request id."""

    def add(self, request: SimRequest) -> None:
        """Queue a request in front of those of a greater number. Raises ValueError as any model."""
        super().add(request)
        self._ranks[request.request_id] = (request.priority, next(self._arrivals))
        self._insert(self._waiting.pop())

    def abort(self, request_id: str) -> bool:
        """Drop a request and let go of its blocks; False when it is not in the engine (it finished meanwhile)."""
        self._ranks.pop(request_id, None)
        return super().abort(request_id)

    def _rank(self, sequence: _Sequence) -> tuple[int, int]:
        return self._ranks[sequence.request_id]

    def _insert(self, sequence: _Sequence) -> None:
        insort(self._waiting, sequence, key=self._rank)
        if self._waiting[0] is sequence:
            self._stuck = False

    def _schedule_running(self, result: StepResult) -> list[tuple[_Sequence, int]]:
        """Give running sequences their tokens and blocks, preempting the last in rank where blocks run out."""
        scheduled: list[tuple[_Sequence, int]] = []
        budget, running, index = self.config.max_num_batched_tokens, self._running, 0
        while index < len(running) and budget > 0:
            sequence = running[index]
            tokens = min(sequence.known - sequence.computed, budget)
            while not self._grow(sequence, sequence.computed + tokens):
                victim = max(running, key=self._rank)
                at = running.index(victim)
                del running[at]
                if at < index:  # it has its tokens of this step already
                    index -= 1
                    budget += scheduled.pop(at)[1]
                self._preempt(victim, result)
                if victim is sequence:
                    return scheduled
            scheduled.append((sequence, tokens))
            budget -= tokens
            index += 1
        return scheduled

    def _preempt(self, sequence: _Sequence, result: StepResult) -> None:
        super()._preempt(sequence, result)
        self._insert(self._waiting.popleft())

    def _finish(self, sequence: _Sequence) -> None:
        super()._finish(sequence)
        del self._ranks[sequence.request_id]


def engine_model(config: ModelConfig) -> EngineModel:
    """Return the model of an engine's scheduling policy."""
    return PriorityModel(config) if config.scheduling_policy == "priority" else EngineModel(config)
