"""Bytes of a body per token, learned for each model from prompts whose length an engine reported."""

from __future__ import annotations

DEFAULT_BYTES_PER_TOKEN = 4.0
"""English text and code run at 3.5 to 4.5 in current vocabularies."""

WEIGHT = 0.05
"""Weight of one prompt in the moving average: about the last twenty count."""

PLAUSIBLE = (0.5, 16.0)
"""A ratio outside is a body that is no text (an image), and says nothing about the next."""

MAX_MODELS = 1024


class TokenRatio:
    """Moving averages by model name; an unnamed model is one of them."""

    def __init__(self) -> None:
        self._by_model: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"TokenRatio({self._by_model})"

    def bytes_per_token(self, model: str) -> float:
        return self._by_model.get(model, DEFAULT_BYTES_PER_TOKEN)

    def observe(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from a prompt of known length."""
        if prompt_tokens < 1:
            return
        ratio = prompt_bytes / prompt_tokens
        if PLAUSIBLE[0] <= ratio <= PLAUSIBLE[1]:
            known = self._by_model.get(model)
            if known is None and len(self._by_model) >= MAX_MODELS:
                del self._by_model[next(iter(self._by_model))]
            self._by_model[model] = ratio if known is None else known + WEIGHT * (ratio - known)
