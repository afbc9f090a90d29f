"""One conversation, and which of two states of it is right.

A conversation's state says which turn it is at, the replica that its last request went to and the incarnation of the
engine there, and how much is kept. Edges publish it. States are totally ordered by `rank`, whichever edge they come
from, and each change that an edge makes yields a greater one: the last writer wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

Name = str | int


class Phase(IntEnum):
    """Activity of a conversation."""

    UNDER_WAY = 0
    """A request of it is, at this edge."""
    ELSEWHERE = 1
    """A request of it is, at another edge that published so."""
    PAUSING = 2
    """None is, and one is likely to follow."""
    DORMANT = 3
    """None is likely to follow: its KV does not count."""


# An enumeration answers slowly, and these are asked for with every decision.
UNDER_WAY, ELSEWHERE, PAUSING, DORMANT = Phase


Rank = tuple[int, str, int, bool, int, int, int, int, int, int, bool]


class Conversation(msgspec.Struct, gc=False):
    """One conversation. Written by `Conversations` alone, once the table has it."""

    name: Name
    slot: int
    """NO_SLOT for one that the table does not have, or dropped."""
    tokens: int
    """Prompt and answer so far; exact once the engine said so."""
    shared: int
    """Leading tokens that others brought."""
    prompt_bytes: int
    prompt_tokens: int
    """Length of the last prompt; 0 until the engine told."""
    tail_at: int
    """Index of `tail` in the chain of the last prompt; -1 where that had no keys."""
    tail: int
    """A key the next prompt contains: the last but one, since the last chunk may hold what follows the messages."""
    seen_s: float
    """Time when a request of the conversation last came or ended."""
    turn: int = 1
    """Requests so far, by whichever edge, and those of them that went elsewhere than they were placed once more."""
    in_flight: int = 0
    """Requests under way at this edge."""
    phase: Phase = Phase.PAUSING
    born_ms: int = 0
    """Start time of the engine incarnation that has its KV, in milliseconds since 1970; 0 is unknown."""
    home: str = ""
    """Id of the replica that its last request went to; empty for one that the table dropped."""
    writer: str = ""
    """Id of the other edge that published this state; empty for a state that this edge wrote."""

    # Known at the edge alone that has the requests under way.
    stands: int = 0
    """The turn, of this edge, that all of this describes."""
    answered: bool = True
    """An answer to that turn began, or another edge published it. Until then all of this is pending."""
    before: Conversation | None = None
    """While it is pending: a copy, as it was last answered; None where no turn was."""
    pending: dict[int, Conversation] | None = None
    """Copies at earlier turns that are pending too, by their numbers."""

    @property
    def own(self) -> int:
        """Tokens that the conversation brought, and its share of the footprint while it is live."""
        return self.tokens - self.shared if self.tokens > self.shared else 0

    @property
    def live(self) -> bool:
        """Return whether the share of the conversation counts."""
        return self.phase is not DORMANT

    @property
    def under_way(self) -> bool:
        return self.phase <= ELSEWHERE

    @property
    def counted_tokens(self) -> int:
        """Leading tokens of the next prompt that the footprint of the home has, or that others brought."""
        return self.tokens if self.live else self.shared

    @property
    def rank(self) -> Rank:
        """Order of states of one conversation, of which the greatest is right.

        The later turn; of equal turns the greater replica id, the later incarnation, the length that an engine
        reported, the longer. The rest makes the order total; whether a request is under way comes last, since each edge
        may give up waiting for its end.
        """
        return (
            self.turn,
            self.home,
            self.born_ms,
            self.prompt_tokens > 0,
            self.tokens,
            self.prompt_tokens,
            self.shared,
            self.prompt_bytes,
            self.tail_at,
            self.tail,
            not self.under_way,
        )

    def outranks(self, other: Conversation) -> bool:
        """Whether this state of a conversation is right, and the other is not."""
        return self.turn > other.turn or (self.turn == other.turn and self.rank > other.rank)


def tail_of(keys: Sequence[int]) -> int:
    """Index of the key that stands for the end of a prompt; -1 without keys."""
    return max(0, len(keys) - 2) if keys else -1
