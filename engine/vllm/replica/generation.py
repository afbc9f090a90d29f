"""Tokens of one prompt in vLLM's engine and of its answers, until all of them ended or were aborted.

vLLM gives an answer that is not streamed at its end alone, so of an aborted one the outputs tell nothing. Its state in
the engine does, at the moment of the abort (`pointsman.engine.vllm.replica.openai_server`).
"""

from __future__ import annotations

from typing import Any


class Generation:
    """One call of vLLM's `generate`."""

    __slots__ = ("_deltas", "_tokens", "cached_tokens", "prompt_tokens")

    def __init__(self, *, deltas: bool) -> None:
        """deltas: whether vLLM gives the tokens since the last time, not all so far."""
        self._deltas = deltas
        self.prompt_tokens = 0
        """Tokens of the prompt; 0 before it is computed."""
        self.cached_tokens = 0
        self._tokens: dict[int, int] = {}
        """Output tokens by number of the answer."""

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(self._tokens.values())

    def output(self, output: Any) -> None:
        """Take in what vLLM gives."""
        self.prompt_tokens = len(output.prompt_token_ids or ())
        self.cached_tokens = output.num_cached_tokens or 0
        for answer in output.outputs:
            before = self._tokens.get(answer.index, 0) if self._deltas else 0
            self._tokens[answer.index] = before + len(answer.token_ids)

    def aborted(self, index: int, prompt_tokens: int, cached_tokens: int, tokens: int) -> None:
        """Take in what one answer came to in the engine until it was aborted."""
        if tokens:
            self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
            self._tokens[index] = max(tokens, self._tokens.get(index, 0))
