"""Live conversations: who keeps whose KV, and how much of it.

`Conversations` owns one entry for each conversation seen within the last `ttl_s`: the slot its last request went to,
what it keeps there, and the exact length of its last prompt where the engine told it.

**Live** is one with a request under way, or silent for less than `silence.patience_s`: it is more likely to go on than
not. The sum over the live by slot is the column `footprint`: KV that will be asked for again, which is what an eviction
can harm. The others are *dormant*: nobody saves room for them, and should one go on its home is still known.

A conversation is named by its session key. Without one it is named by a key near the end of its prompt, which its next
prompt contains; prompts that end alike are then one conversation, and so is their KV.

Between edges the later turn is right; of two alike the one to the greater replica id, then the one an engine told of,
then the longer. So edges that heard the same, in any order, have the same table. A conversation whose home lost its KV
begins again, but its turns go on: else what an edge says that has not heard of the loss would count for more.

**Shared heads count once.** What others had resident there when a conversation came (a system prompt) is not its own:
its share of the footprint is what it brought.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from itertools import chain, islice, takewhile

import msgspec

from policies.types import NO_SLOT
from router.state.kv_columns import KVColumns
from router.state.silence import Silence

MAX_CONVERSATIONS = 200_000
"""About 80 MB. When met, the longest silent go, a batch at a time."""

CONVERSATION_TTL_S = 120.0
"""A conversation silent for longer is over: agents come back within seconds, people within a minute or two."""

UNDER_WAY_ELSEWHERE_S = 60.0
"""How long a request that another edge has under way may take until that edge's silence counts as its end."""

MAX_UPROOTED = 65_536
"""Conversations without a home whose turns are remembered for the ttl: about 10 MB. When met, the first goes."""

EVICTION_BATCH = 1024

LOOK_BACK = 4
"""Keys before the deepest resident one that are tried as a name: an answer, or what a body has behind its prompt."""

Name = str | int


class Phase(IntEnum):
    """What a conversation is doing."""

    UNDER_WAY = 0
    """A request of it is, at this edge."""
    ELSEWHERE = 1
    """The same, at another edge, as that one said."""
    PAUSING = 2
    """None is, and one is likely to follow."""
    DORMANT = 3
    """None is likely to follow: its KV does not count."""


# An enumeration answers slowly, and these are asked for with every decision.
UNDER_WAY, ELSEWHERE, PAUSING, DORMANT = Phase


class Conversation(msgspec.Struct, gc=False):
    """What is kept of one conversation. Written by `Conversations` alone."""

    name: Name
    slot: int
    tokens: int
    """Prompt and answer so far; exact once the engine said so."""
    shared: int
    """Leading tokens that others brought."""
    prompt_bytes: int
    prompt_tokens: int
    """Of the last prompt; 0 until the engine told."""
    tail_at: int
    """Index of `tail` in the chain of the last prompt; -1 where that had no keys."""
    tail: int
    """A key the next prompt contains: the last but one, since the last chunk may hold what follows the messages."""
    seen_s: float
    """When a request of it last came or ended."""
    turn: int = 1
    """Requests so far, by whichever edge, and those of them that went elsewhere than they were placed once more."""
    in_flight: int = 0
    """Of these under way at this edge."""
    phase: Phase = Phase.PAUSING
    born_ms: int = 0
    """Which life of its slot's engine has its KV; 0 where that is not known."""

    @property
    def own(self) -> int:
        """What it brought, and its share of the footprint while it is live."""
        return self.tokens - self.shared if self.tokens > self.shared else 0

    @property
    def live(self) -> bool:
        """Whether its share counts."""
        return self.phase is not DORMANT

    @property
    def under_way(self) -> bool:
        return self.phase <= ELSEWHERE

    @property
    def counted_tokens(self) -> int:
        """Leading tokens of its next prompt that its slot's footprint has, or that others brought."""
        return self.tokens if self.live else self.shared


def tail_of(keys: Sequence[int]) -> int:
    """Index of the key that stands for the end of a prompt; -1 without keys."""
    return max(0, len(keys) - 2) if keys else -1


class Conversations:
    """The table, bounded, and the column `footprint`."""

    def __init__(
        self, columns: KVColumns, *, ttl_s: float = CONVERSATION_TTL_S, max_conversations: int = MAX_CONVERSATIONS
    ) -> None:
        self._columns = columns
        self._max = max_conversations
        self._known: dict[Name, Conversation] = {}
        self._in_phase: tuple[dict[Name, Conversation], ...] = tuple({} for _ in Phase)
        """Each in the order of `seen_s`, or nearly where other edges have a say."""
        self._of_slot: dict[int, int] = {}
        self._born: dict[int, int] = {}
        """By slot, when the life of its engine began that is known; not where that is unsaid."""
        self._uprooted: dict[Name, tuple[int, float, int]] = {}
        """Turn and last seen of those whose home lost its KV, and its slot; NO_SLOT where the replica left."""
        self.silence = Silence(ttl_s)
        self.evicted = 0
        """Conversations dropped because the table was full."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Conversation]:
        """Least recently seen first."""
        return iter(sorted(self._known.values(), key=lambda known: known.seen_s))

    def __repr__(self) -> str:
        return f"Conversations({self.live} live of {len(self)}, at most {self._max})"

    @property
    def live(self) -> int:
        """Conversations whose KV counts."""
        return len(self._known) - len(self._in_phase[Phase.DORMANT])

    def find(self, session: str, keys: Sequence[int], deepest: int) -> Conversation | None:
        """The conversation a request continues; `deepest` is the index of the deepest key anybody holds, or -1."""
        if session:
            return self._known.get(session)
        for at in range(deepest, max(-1, deepest - LOOK_BACK), -1):
            found = self._known.get(keys[at])
            if found is not None:
                return found
        return None

    def place(
        self,
        known: Conversation | None,
        session: str,
        slot: int,
        keys: Sequence[int],
        *,
        tokens: int,
        resident: int,
        prompt_bytes: int,
        now_s: float,
        in_flight: bool = True,
    ) -> Conversation | None:
        """A request of `known`, or of a conversation that begins, goes to a slot where `resident` of its `tokens` are.

        Unless `in_flight` nobody will tell of its end. None for one without any name: no session, and a prompt too
        short to have keys.
        """
        tail_at = tail_of(keys)
        name: Name = session or (keys[tail_at] if keys else "")
        if not name:
            return None
        if known is None:
            known = self._known.get(name)
        if known is None:
            known = self._begin(name, slot, resident, now_s)
        else:
            if known.name != name:
                self._rename(known, name)
            if not known.under_way:
                self.silence.went_on(now_s - known.seen_s)
        known.turn += 1
        known.in_flight += in_flight
        self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)
        self._settle(known, slot, tokens, known.shared if known.slot == slot else resident)
        known.born_ms = self._born.get(slot, 0)
        known.prompt_bytes, known.prompt_tokens = prompt_bytes, 0
        known.tail_at, known.tail = tail_at, keys[tail_at] if keys else 0
        return known

    def ended(self, known: Conversation, now_s: float) -> None:
        """One of its requests under way at this edge is over."""
        if known.slot != NO_SLOT:
            known.in_flight -= 1
            self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)

    def served_by(self, known: Conversation, placed: int, slot: int) -> None:
        """A request that was placed on one slot went to another: its KV is there, all of it its own."""
        if known.slot == placed != slot:
            # Edges that were told of the placement would else take one of the two homes by its name.
            known.turn += 1
            self._settle(known, slot, known.tokens, 0)

    def told(
        self, known: Conversation, slot: int, prompt_bytes: int, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """The engine said how long prompt and answer of the conversation's request to `slot` are."""
        # A later request of the same conversation may be under way; its lengths count.
        if known.slot == slot and known.prompt_bytes == prompt_bytes:
            known.prompt_tokens = prompt_tokens
            tokens = prompt_tokens + completion_tokens
            self._settle(known, slot, tokens, min(known.shared, tokens))

    def get(self, name: Name) -> Conversation | None:
        return self._known.get(name)

    def learn(
        self,
        name: Name,
        slot: int,
        *,
        was: Name | None,
        newer: Callable[[Conversation], bool],
        tokens: int,
        shared: int,
        prompt_bytes: int,
        prompt_tokens: int,
        tail_at: int,
        tail: int,
        turn: int,
        seen_s: float,
        under_way: bool,
        born_ms: int = 0,
    ) -> bool:
        """Takes over what another edge said of a conversation, if it is `newer` than what is known; True if it was.
        `was` is its name before, which goes with it. Of a life of the engine that is over nothing is taken."""
        if 0 < born_ms < self._born.get(slot, 0):
            return False
        if was is not None and was != name:
            before = self._known.get(was)
            if before is not None and before.turn < turn:
                self._drop(before)
        known = self._known.get(name)
        if known is None:
            # Of the turn that was lost another edge may know another home.
            lost_turn, _, lost_slot = self._uprooted.get(name, (0, 0.0, NO_SLOT))
            if turn < lost_turn or (turn == lost_turn and slot == lost_slot):
                return False
            known = self._begin(name, slot, shared, seen_s)
        elif not newer(known):
            return False
        elif not known.under_way and turn > known.turn:
            self.silence.went_on(max(0.0, seen_s - known.seen_s))
        if not known.in_flight:
            self._become(known, Phase.ELSEWHERE if under_way else Phase.PAUSING, max(seen_s, known.seen_s))
        self._settle(known, slot, tokens, shared)
        known.born_ms = born_ms or known.born_ms
        known.turn, known.prompt_bytes, known.prompt_tokens = turn, prompt_bytes, prompt_tokens
        known.tail_at, known.tail = tail_at, tail
        return True

    def expire(self, now_s: float) -> int:
        """The silent no longer count, and those silent for the ttl are forgotten; how many."""
        elsewhere, pausing, dormant = self._in_phase[Phase.ELSEWHERE :]
        for known in _seen_until(elsewhere, now_s - UNDER_WAY_ELSEWHERE_S):
            self._become(known, Phase.PAUSING, known.seen_s)
        if not self.silence.saw_end:
            silent = [*dormant.values(), *pausing.values()]
            self.silence.wait(lambda silent_s: bisect_right(silent, now_s - silent_s, key=_seen_s))
        for known in _seen_until(pausing, now_s - self.silence.patience_s):
            self._become(known, Phase.DORMANT, known.seen_s)
        over = _seen_until(dormant, now_s - self.silence.ttl_s)
        for known in over:
            self._drop(known)
            self.silence.ended()
        for name in list(takewhile(lambda name: self._uprooted[name][1] <= now_s - self.silence.ttl_s, self._uprooted)):
            del self._uprooted[name]
        return len(over)

    def clear_slot(self, slot: int) -> None:
        """Its replica left: what was kept there is gone, and its conversations begin again, wherever they go."""
        self._uproot(slot, lambda known: True, at=NO_SLOT)
        self._born.pop(slot, None)

    def engine_lives(self, slot: int, born_ms: int, *, restarted: bool = False) -> None:
        """A slot's engine began this life then (0: unsaid), and what others before it kept is gone. `restarted`: they
        are known to have been; else conversations of a life that nobody named stay."""
        if born_ms > self._born.get(slot, 0) or restarted:
            least_ms = 0 if restarted else 1
            self._uproot(slot, lambda known: not born_ms or least_ms <= known.born_ms < born_ms, at=slot)
            self._born[slot] = born_ms

    def _uproot(self, slot: int, gone: Callable[[Conversation], bool], *, at: int) -> None:
        """`at`: the slot, where it still is the same replica's."""
        if not self._of_slot.get(slot):
            return
        uprooted = self._uprooted
        for known in [known for known in self._known.values() if known.slot == slot and gone(known)]:
            self._drop(known)
            uprooted[known.name] = known.turn, known.seen_s, at
        for name in list(islice(uprooted, max(0, len(uprooted) - MAX_UPROOTED))):
            del uprooted[name]

    def _begin(self, name: Name, slot: int, shared: int, now_s: float) -> Conversation:
        if len(self._known) >= self._max:
            longest_silent = chain.from_iterable(phase.values() for phase in reversed(self._in_phase))
            for known in list(islice(longest_silent, min(EVICTION_BATCH, self._max))):
                self._drop(known)
                self.evicted += 1
        turn, *_ = self._uprooted.pop(name, (0, 0.0, NO_SLOT))
        known = self._known[name] = Conversation(name, slot, shared, shared, 0, 0, -1, 0, now_s, turn)
        known.born_ms = self._born.get(slot, 0)
        self._in_phase[known.phase][name] = known
        self._of_slot[slot] = self._of_slot.get(slot, 0) + 1
        return known

    def _rename(self, known: Conversation, name: Name) -> None:
        """It goes on under another name, which may have been that of a prompt that ended alike."""
        alike = self._known.get(name)
        if alike is not None:
            self._drop(alike)
        for table in (self._known, self._in_phase[known.phase]):
            del table[known.name]
            table[name] = known
        known.name = name
        known.turn = max(known.turn, self._uprooted.pop(name, (0, 0.0, NO_SLOT))[0])

    def _become(self, known: Conversation, phase: Phase, seen_s: float) -> None:
        name, before = known.name, known.phase
        known.seen_s, known.phase = seen_s, phase
        del self._in_phase[before][name]
        self._in_phase[phase][name] = known
        if phase is not before and DORMANT in (phase, before):
            self._columns.add_footprint(known.slot, known.own if known.live else -known.own)

    def _settle(self, known: Conversation, slot: int, tokens: int, shared: int) -> None:
        """Its KV is on `slot`, so much of it."""
        columns, before = self._columns, known.own
        known.tokens, known.shared = tokens, shared
        if known.slot == slot:
            if known.live:
                columns.add_footprint(slot, known.own - before)
            return
        if known.live:
            columns.add_footprint(known.slot, -before)
            columns.add_footprint(slot, known.own)
        self._of_slot[known.slot] -= 1
        self._of_slot[slot] = self._of_slot.get(slot, 0) + 1
        known.slot, known.born_ms = slot, self._born.get(slot, 0)

    def _drop(self, known: Conversation) -> None:
        del self._known[known.name]
        del self._in_phase[known.phase][known.name]
        if known.live:
            self._columns.add_footprint(known.slot, -known.own)
        self._of_slot[known.slot] -= 1
        known.slot = NO_SLOT

    def validate(self) -> None:
        """Raises AssertionError when table and column disagree."""
        footprint = self._columns.signals.footprint
        known = self._known.values()
        own, count = [0] * len(footprint), Counter[int]()
        for one in known:
            own[one.slot] += one.own if one.live else 0
            count[one.slot] += 1
        assert footprint.tolist() == own, f"the column says {footprint.tolist()}, the table {own}"
        assert Counter(self._of_slot) == count, f"counted {self._of_slot}, there are {count}"
        assert all(name == one.name for name, one in self._known.items()), "a conversation under another's name"
        for phase, table in zip(Phase, self._in_phase, strict=True):
            assert all(one.phase is phase and self._known[name] is one for name, one in table.items()), f"{phase!r}"
        assert len(self._uprooted) <= MAX_UPROOTED, "more uprooted conversations than the limit"
        assert not self._uprooted.keys() & self._known.keys(), "a conversation with a home and without"
        assert sum(map(len, self._in_phase)) == len(self._known), "a conversation in no phase, or in two"
        assert all((one.phase is Phase.UNDER_WAY) == (one.in_flight > 0) for one in known), "under way or not?"


def _seen_s(known: Conversation) -> float:
    return known.seen_s


def _seen_until(table: dict[Name, Conversation], at_s: float) -> list[Conversation]:
    """Those not seen after that moment, of a table in the order of `seen_s`."""
    return list(takewhile(lambda known: known.seen_s <= at_s, table.values()))
