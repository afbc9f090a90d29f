"""A workload: sessions of turns, with the blocks each prompt consists of.

Sessions begin by the clock whatever the fleet does (open loop). Inside a session each turn waits for the answer to the
one before and then pauses (closed loop), as agents and people do.

**Prefix identity.** A trace names blocks by numbers: equal numbers at the same place mean the same tokens up to there.
A prompt of `prompt_tokens` tokens is a body of `prompt_tokens * bytes_per_token` bytes, so each byte boundary of
`pointsman.contract.prefix_keys` lies in one block. The key there is derived from that block's number and the offset in
it. So two prompts share a key exactly when they share the block it ends in: what a router sees of real bodies, except
that sharing which ends inside a block counts from the block's start. At the default of 4 bytes a token, boundaries 512
bytes apart (the finest) are 128 tokens apart, and blocks of 64 tokens end on every one of them.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from pointsman.contract.prefix_keys import BOUNDARIES

BYTES_PER_TOKEN = 4.0
"""Bytes per token that the router assumes; a trace may differ, to show the cost of the assumption."""

_KEY_MASK = (1 << 64) - 1
_KEY_MIX = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: multiplication by it permutes 64-bit numbers and spreads small ones."""


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One request of a session."""

    prompt_tokens: int
    """The whole prompt, history included."""
    output_tokens: int
    """Never shown to a policy."""
    pause_s: float
    """From the end of the turn before; 0 for the first."""
    blocks: Sequence[int]
    """Names of the prompt's full blocks. May go on with those that the answer and the next turn fill."""


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one conversation."""

    id: str
    """Session key that clients send; empty when they send none."""
    start_s: float
    turns: tuple[Turn, ...]
    tenant: str = ""
    """Tenant that the session's requests count for; empty: none."""
    priority: str = ""
    """Priority class that its requests name, as in the header; empty: none."""
    model: str = ""
    """Model that its requests ask for; empty: any."""


@dataclass(frozen=True)
class Trace:
    """Sessions in the order of their start."""

    name: str
    block_size: int
    """Tokens in a block of the trace, and in one of the engines that play it."""
    sessions: tuple[Session, ...]
    bytes_per_token: float = BYTES_PER_TOKEN
    reuse_generated: bool = True
    """Whether a next turn finds the answer's blocks in the cache. vLLM's hashes say yes where the client sends the
    answer back token for token; Dynamo's replay says no."""
    _boundaries: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """Where each key ends: block, and tokens into it."""
    _keys_of: dict[int, tuple[Sequence[int], tuple[int, ...]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    """Blocks and their keys by identity of the block list, which thereby stays the one it was."""

    def __post_init__(self) -> None:
        places = []
        for boundary in BOUNDARIES:
            tokens = math.ceil(boundary / self.bytes_per_token)
            block = (tokens - 1) // self.block_size
            places.append((block, tokens - block * self.block_size))
        object.__setattr__(self, "_boundaries", tuple(places))

    def __repr__(self) -> str:
        return f"Trace({self.name!r}, {len(self.sessions)} sessions, {self.requests} requests)"

    @property
    def requests(self) -> int:
        return sum(len(session.turns) for session in self.sessions)

    @property
    def sessions_per_s(self) -> float:
        """Mean rate at which sessions begin; inf when all begin at once."""
        span_s = self.sessions[-1].start_s - self.sessions[0].start_s
        return (len(self.sessions) - 1) / span_s if span_s > 0 else math.inf

    @property
    def has_starts(self) -> bool:
        """Whether it says when sessions begin; otherwise all do at once."""
        return len(self.sessions) == 1 or self.sessions_per_s < math.inf

    @property
    def has_tenants(self) -> bool:
        """Whether any session belongs to a tenant."""
        return any(session.tenant for session in self.sessions)

    def body_bytes(self, turn: Turn) -> int:
        return round(turn.prompt_tokens * self.bytes_per_token)

    def prefix_keys(self, turn: Turn) -> tuple[int, ...]:
        """Prefix keys of this prompt, as `pointsman.contract.prefix_keys` makes them, shortest prefix first."""
        full = min(turn.prompt_tokens // self.block_size, len(turn.blocks))
        return self._chain_keys(turn.blocks)[: bisect_left(self._boundaries, (full, 0))]

    def _chain_keys(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """The keys that end in these blocks. Turns of a conversation share their list, so it is done once for all."""
        known = self._keys_of.get(id(blocks))
        if known is None:
            ends = self._boundaries[: bisect_left(self._boundaries, (len(blocks), 0))]
            known = blocks, tuple(_key(blocks[block], offset) for block, offset in ends)
            self._keys_of[id(blocks)] = known
        return known[1]

    @cached_property
    def keys_by_block(self) -> dict[int, tuple[int, ...]]:
        """The prefix keys that end in a block, by the block's name: what a replica tells of a block it stores."""
        offsets: dict[int, list[int]] = {}
        for block, offset in self._boundaries:
            offsets.setdefault(block, []).append(offset)
        found: dict[int, tuple[int, ...]] = {}
        seen: set[int] = set()
        for session in self.sessions:
            for turn in reversed(session.turns):
                if id(turn.blocks) in seen:
                    continue
                seen.add(id(turn.blocks))
                for index, of_block in offsets.items():
                    if index < len(turn.blocks):
                        name = turn.blocks[index]
                        found[name] = tuple(_key(name, offset) for offset in of_block)
        return found

    def at_rate(self, sessions_per_s: float, rng: random.Random) -> Trace:
        """Return the sessions at another rate: starts are stretched; where all began at once, they are drawn anew."""
        if math.isfinite(self.sessions_per_s):
            first_s, stretch = self.sessions[0].start_s, self.sessions_per_s / sessions_per_s
            starts = [(session.start_s - first_s) * stretch for session in self.sessions]
        else:
            starts = list(poisson_starts(len(self.sessions), sessions_per_s, rng))
        moved = (replace(session, start_s=at_s) for session, at_s in zip(self.sessions, starts, strict=True))
        return replace(self, sessions=tuple(moved))


def _key(name: int, offset: int) -> int:
    return (name * _KEY_MIX + offset) & _KEY_MASK


def poisson_starts(count: int, per_s: float, rng: random.Random) -> Iterator[float]:
    """Arrival times of a Poisson process that begins at 0."""
    now_s = 0.0
    for _ in range(count):
        now_s += rng.expovariate(per_s)
        yield now_s
