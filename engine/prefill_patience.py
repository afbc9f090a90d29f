"""Time limit of a prefill request: three times the usual time for its length, plus one second.

`PrefillPatience` learns from the prefill requests of one decode replica how many seconds a token takes, the prefill
replica's queue included. A replica that accepts a request and never answers then delays it by about the time that its
prompt needs anyway, and not by the longest that any prompt may take. A request that was given up counts as one that
needed the time it was given, so that patience grows where all of them are slow; of requests that waited together and
were given up only one counts, since they tell the same. Plain arithmetic, without clock.
"""

from __future__ import annotations

FLOOR_S = 1.0
"""Any prefill request may take so long: connections, tokenising and one step of a busy engine."""

SPARE = 3.0
"""Multiple of its expected time that a prefill request may take. Routers choose a pair while the handoff takes up to 3
times as long as computing the prompt on the decode replica (`pair.patience`)."""

PRIOR_S_PER_TOKEN = 1e-4
"""Until a prefill request ended: 10,000 tokens a second, a large model on a slow accelerator."""

WEIGHT = 0.2
"""Of one prefill request in the moving average: about the last five count."""

MIN_TOKENS = 256
"""Shorter prompts take no less time, and would be taken for slow ones."""


class PrefillPatience:
    """Seconds a token, as a moving average. `most_s`: the longest any prefill request may take."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._s_per_token = PRIOR_S_PER_TOKEN
        self._is_known = False
        self._given_up_s = float("-inf")

    def __repr__(self) -> str:
        return f"LegTimes({self._s_per_token * 1000:.3g} ms a token, at most {self._most_s:g} s)"

    def patience_s(self, tokens: int) -> float:
        """Return the time limit of a prefill request of so many tokens, in seconds."""
        return min(self._most_s, FLOOR_S + SPARE * self._s_per_token * max(tokens, MIN_TOKENS))

    def answered(self, tokens: int, took_s: float) -> None:
        """A prefill request of so many tokens was answered after that time."""
        self._learn(took_s / max(tokens, MIN_TOKENS), WEIGHT if self._is_known else 1.0)
        self._is_known = True

    def given_up(self, tokens: int, began_s: float, now_s: float) -> None:
        """A prefill request that began at `began_s` was not answered by `now_s`."""
        if began_s >= self._given_up_s:
            self._given_up_s = now_s
            self._learn(max(self._s_per_token, (now_s - began_s) / max(tokens, MIN_TOKENS)), WEIGHT)

    def _learn(self, s_per_token: float, weight: float) -> None:
        self._s_per_token += weight * (s_per_token - self._s_per_token)
