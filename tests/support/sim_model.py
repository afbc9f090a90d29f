"""Builders for the simulated engine's model."""

from __future__ import annotations

from itertools import count

from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult
from pointsman.engine.sim.timing import Timing

_IDS = count(1)


def make_model(
    *,
    blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 32,
    timing: Timing | None = None,
) -> EngineModel:
    """A small engine: 64 blocks of 4 tokens, 32 tokens a step; a step costs nothing unless a timing is given."""
    return EngineModel(
        ModelConfig(
            blocks=blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            timing=timing or Timing(),
        )
    )


def make_request(
    request_id: str = "", *, prompt: int = 8, output: int = 4, hashes: list[int] | None = None
) -> SimRequest:
    """A request with hashes of its own for every block, unless some are given."""
    number = next(_IDS)
    own = [number * 1_000_000 + index for index in range(prompt + output)]
    return SimRequest(request_id or f"r{number}", prompt, output, own if hashes is None else hashes)


def run_until_idle(model: EngineModel, limit: int = 10_000) -> list[StepResult]:
    """Step until there is nothing left to do."""
    results = []
    for _ in range(limit):
        result = model.step()
        if not result.steps:
            return results
        results.append(result)
    raise AssertionError(f"still busy after {limit} steps")
