"""Pauses between attempts at something that failed. Leaf module."""

from __future__ import annotations

import asyncio


class Backoff:
    """Pauses that double from `first_s` up to `longest_s`."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self.next_s = first_s
        """The pause that comes next."""

    def __repr__(self) -> str:
        return f"Backoff(next {self.next_s} s)"

    def reset(self) -> None:
        """Note a success: the next pause is the first one again."""
        self.next_s = self._first_s

    def take(self) -> float:
        """The pause to make now, in seconds; the next one is twice as long, up to the longest."""
        pause_s, self.next_s = self.next_s, min(2 * self.next_s, self._longest_s)
        return pause_s

    async def pause(self) -> None:
        """Wait for the pause that comes next."""
        await asyncio.sleep(self.take())
