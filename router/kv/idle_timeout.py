"""Idle timeout of conversations, learned from the pauses of the fleet.

`Silence` learns from both ends: pauses after which a conversation went on, and conversations that were silent for the
whole of `ttl_s`. Of those that were silent for t seconds, R(t) went on and N never did; `patience_s` is the longest t
from which at least as many went on as not. Agents that call tools come back within seconds and are soon given up,
people are waited for, and where every request stands alone nobody is.

Until a `ttl_s` has passed nobody was seen to end. Meanwhile those who are silent for t seconds at that moment stand for
N, all but `DOUBTFUL` of them: a fleet of lone requests would else be taken for full of conversations for two minutes.

Recent observations weigh more: whenever `MEMORY` have been counted, all counts are halved.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

STEPS = 96
FIRST_S = 0.05
"""Pauses are told apart in `STEPS` steps of one ratio, from this one to the ttl: 8 % at two minutes."""

MEMORY = 4096.0

DOUBTFUL = 32
"""Number of silent conversations that says nothing yet."""


class Silence:
    """Counts of pauses and ends. `ttl_s` (more than `FIRST_S`) of silence end a conversation whatever was learned."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        ratio: float = (max(ttl_s, 2 * FIRST_S) / FIRST_S) ** (1 / STEPS)
        self._bounds: list[float] = [FIRST_S * ratio ** float(step) for step in range(STEPS + 1)]
        self._pauses = [0.0] * (STEPS + 2)
        self._ends = 0.0
        self._silent = [0] * (STEPS + 1)
        """Conversations idle for each bound or longer, from which ends are estimated until one was observed."""
        self._counted = 0.0
        self._patience_s: float | None = ttl_s

    def __repr__(self) -> str:
        return f"Silence(patience {self.patience_s:.3g} s)"

    def went_on(self, pause_s: float) -> None:
        """Count a conversation that went on after a pause."""
        self._pauses[bisect_left(self._bounds, pause_s)] += 1.0
        self._count()

    def ended(self) -> None:
        """Count a conversation that was silent for `ttl_s`."""
        self._ends += 1.0
        self._count()

    @property
    def is_known(self) -> bool:
        """Whether enough was observed to tell who is likely to go on. While it is not, all who are silent are taken for
        likely to, and that is no ground to refuse anybody."""
        return self._counted >= DOUBTFUL or (not self.saw_end and self._silent[0] > DOUBTFUL)

    @property
    def saw_end(self) -> bool:
        """Whether ends are counted, and need not be guessed."""
        return self._ends > 0.0

    def wait(self, silent_for: Callable[[float], int]) -> None:
        """Note how many conversations are idle for so many seconds or longer; used until an end was observed."""
        self._silent = [silent_for(bound) for bound in self._bounds]
        self._patience_s = None

    def _count(self) -> None:
        self._patience_s = None
        self._counted += 1.0
        if self._counted >= MEMORY:
            self._pauses = [count / 2 for count in self._pauses]
            self._ends /= 2
            self._counted /= 2

    @property
    def patience_s(self) -> float:
        """Silence from which on a conversation is more likely over than not."""
        if self._patience_s is None:
            self._patience_s = self._longest_worth_waiting_s()
        return self._patience_s

    def _longest_worth_waiting_s(self) -> float:
        ends, later, worth_s = self._ends, 0.0, self.ttl_s
        for step in range(STEPS + 1, 0, -1):
            later += self._pauses[step]
            over = ends or self._silent[step - 1] - DOUBTFUL
            if later < over:
                worth_s = self._bounds[step - 2] if step > 1 else 0.0
        return min(self.ttl_s, worth_s)
