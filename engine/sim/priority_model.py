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

    def add(self, request: SimRequest) -> None:
        """Queue a request in front of those of a greater number. Raises ValueError as any model."""
        super().add(request)
        sequence = self._waiting.pop()
        sequence.arrival = next(self._arrivals)
        self._insert(sequence)

    def _victim(self) -> int:
        """Place in the batch of the sequence that is preempted next: the last in rank is."""
        return max(range(len(self._running)), key=lambda at: _rank(self._running[at]))

    def _preempt(self, sequence: _Sequence, result: StepResult) -> None:
        super()._preempt(sequence, result)
        self._insert(self._waiting.popleft())

    def _insert(self, sequence: _Sequence) -> None:
        insort(self._waiting, sequence, key=_rank)
        if self._waiting[0] is sequence:
            self._stuck = False


def _rank(sequence: _Sequence) -> tuple[int, int]:
    """Priority and number of arrival, by which sequences are ordered."""
    return sequence.request.priority, sequence.arrival


def engine_model(config: ModelConfig) -> EngineModel:
    """Return the model of an engine's scheduling policy."""
    return PriorityModel(config) if config.scheduling_policy == "priority" else EngineModel(config)
