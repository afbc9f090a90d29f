"""Draws without replacement."""

from __future__ import annotations

import random


def draw(rng: random.Random, n: int, places: int) -> list[int]:
    """`places` distinct numbers below `n` (at most `n` of them), every order equally likely.

    A longer draw from the same dice begins with the shorter one, which `random.Random.sample` does not promise.
    """
    if places == 1:
        return [int(rng.random() * n)]
    # Fisher and Yates' shuffle, holding only the entries it has moved: the cost is in `places`, not in `n`.
    drawn: list[int] = []
    moved: dict[int, int] = {}
    for i in range(min(places, n)):
        j = i + int(rng.random() * (n - i))
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return drawn
