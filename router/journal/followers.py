"""Followers of what happens, each with a queue of its own: whoever reads slowly loses the oldest and learns how many.

`Followers` is told of each item, and hands it to every follower that wants it. That costs nothing where nobody
follows, and waits for nobody: a follower's queue is bounded, and its reader takes what is there when it is woken. Plain
and synchronous, so that a decision may be handed on in the middle of its line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

QUEUE_MAX = 1000
"""Items that wait for one follower: a second of a busy edge. Beyond, the oldest are dropped and counted."""

Item = TypeVar("Item")


class Follower(Generic[Item]):
    """The queue of one reader.

    wants: whether the reader is to get an item; asked of every item, so it is to be quick.
    """

    __slots__ = ("_missed", "_queue", "wake", "wants")

    def __init__(self, wants: Callable[[Item], bool] | None = None, *, queue_max: int = QUEUE_MAX) -> None:
        self._queue: deque[Item] = deque(maxlen=queue_max)
        self._missed = 0
        self.wants = wants
        self.wake: Callable[[], None] = _nobody
        """Called when an item has come; set by the reader."""

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, item: Item) -> None:
        """Put an item into the queue, if the reader wants it."""
        if self.wants is not None and not self.wants(item):
            return
        if len(self._queue) == self._queue.maxlen:
            self._missed += 1
        self._queue.append(item)
        self.wake()

    def take(self) -> tuple[int, list[Item]]:
        """Take all that waits: the number of items dropped before these, and the items, oldest first."""
        missed, self._missed = self._missed, 0
        items = list(self._queue)
        self._queue.clear()
        return missed, items


class Followers(Generic[Item]):
    """All followers of one kind of item."""

    __slots__ = ("_all", "_on_joined")

    def __init__(self, on_joined: Callable[[], None] | None = None) -> None:
        """on_joined: called when a follower has joined; None for nobody who wants to know."""
        self._all: list[Follower[Item]] = []
        self._on_joined = on_joined if on_joined is not None else _nobody

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Follower[Item]]:
        return iter(self._all)

    def __repr__(self) -> str:
        return f"Followers({len(self)})"

    def offer(self, item: Item) -> None:
        """Hand an item to all that want it."""
        for follower in self._all:
            follower.offer(item)

    def join(self, follower: Follower[Item]) -> None:
        """Hand every item from here on to a follower too, until it leaves."""
        self._all.append(follower)
        self._on_joined()

    def leave(self, follower: Follower[Item]) -> None:
        """Hand no more to a follower; one that has left already may leave again."""
        if follower in self._all:
            self._all.remove(follower)


def _nobody() -> None:
    """In place of a reader that is not there yet, or of one that need not know."""
