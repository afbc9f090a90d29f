"""Tokens of one call of vLLM's `generate`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pointsman.engine.vllm.replica.generation import Generation


def output(*tokens: int, prompt: int = 20, cached: int = 16) -> Any:
    """What vLLM gives: so many tokens of each answer."""
    answers = [SimpleNamespace(index=index, token_ids=[0] * count) for index, count in enumerate(tokens)]
    return SimpleNamespace(prompt_token_ids=[0] * prompt, num_cached_tokens=cached, outputs=answers)


def test_deltas_add_up_and_wholes_replace() -> None:
    """By answer."""
    streamed, whole = Generation(deltas=True), Generation(deltas=False)
    for _ in range(3):
        streamed.output(output(1, 2))
    assert (streamed.prompt_tokens, streamed.cached_tokens, streamed.output_tokens) == (20, 16, 9)
    for tokens in (1, 2, 3):
        whole.output(output(tokens))
    assert whole.output_tokens == 3


def test_an_aborted_answer_has_what_the_engine_computed() -> None:
    """Though no output told of it; before its first token it has nothing."""
    generation = Generation(deltas=False)
    generation.aborted(0, 20, 16, 0)
    assert (generation.prompt_tokens, generation.output_tokens) == (0, 0)
    generation.aborted(0, 20, 16, 7)
    generation.aborted(0, 20, 16, 7)
    assert (generation.prompt_tokens, generation.cached_tokens, generation.output_tokens) == (20, 16, 7)
