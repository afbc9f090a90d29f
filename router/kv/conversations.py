"""Live conversations: who keeps whose KV, and how much of it.

`Conversations` owns one entry for each conversation seen within the last `ttl_s`: the slot its last request went to,
what it keeps there, and the exact length of its last prompt where the engine told it.

**Live** is one with a request under way, or silent for less than `silence.patience_s`: it is more likely to go on than
not. The sum over the live by slot is the column `footprint`: KV that will be asked for again, which is what an eviction
can harm. The others are *dormant*: nobody saves room for them, and should one go on its home is still known.

A conversation is named by its session key. Without one it is named by a key near the end of its prompt, which its next
prompt contains; prompts that end alike are then one conversation, and so is their KV.

**A conversation's state is replicated, last writer wins.** Of two states the one of greater rank is kept, in whatever
order they arrive. A conversation is dropped with its home: when its replica leaves, or when the engine
there starts again. A state of an incarnation before the one known here is refused, so an edge that learns of a restart
late brings nothing back. What is dropped begins again with its next turn.

**What a client announces is pending until it is answered.** From its decision on a request counts, so that those who
come next find the room taken; it stays only when an answer begins (`answered`). A request that ends without one, be it
refused or left by its client, leaves the conversation as it was last answered, and without a home where it never was.

**Shared heads count once.** What others had resident there when a conversation came (a system prompt) is not its own:
its share of the footprint is what it brought.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain, islice, takewhile

from msgspec.structs import replace

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import DORMANT, PAUSING, UNDER_WAY, Conversation, Name, Phase, tail_of
from pointsman.router.kv.idle_timeout import Silence

MAX_CONVERSATIONS = 200_000
"""Limit of the table, about 80 MB. When met, the longest silent go, a batch at a time."""

CONVERSATION_TTL_S = 120.0
"""A conversation silent for longer is over: agents come back within seconds, people within a minute or two."""

UNDER_WAY_ELSEWHERE_S = 60.0
"""Time after which the silence of another edge counts as the end of a request that it has under way."""

EVICTION_BATCH = 1024

LOOK_BACK = 4
"""Keys before the deepest resident one that are tried as a name: an answer, or what a body has behind its prompt."""


class Conversations:
    """The table, bounded, and the column `footprint`."""

    def __init__(
        self, columns: KVColumns, *, ttl_s: float = CONVERSATION_TTL_S, max_conversations: int = MAX_CONVERSATIONS
    ) -> None:
        self._columns = columns
        self._max = max_conversations
        self.by_name: dict[Name, Conversation] = {}
        """All of the table, for others to read."""
        self._in_phase: tuple[dict[Name, Conversation], ...] = tuple({} for _ in Phase)
        """Conversations by phase, in the order of `seen_s`, or nearly where other edges have a say."""
        self.of_slot: dict[int, int] = {}
        """Number of conversations by slot, for others to read."""
        self._homes: dict[int, str] = {}
        """Replica id by slot."""
        self._born: dict[int, int] = {}
        """Start time of the engine by slot where that is known, in milliseconds since 1970."""
        self.silence = Silence(ttl_s)
        self.evicted = 0
        """Conversations dropped because the table was full."""

    def __repr__(self) -> str:
        return f"Conversations({self.counts()[0]} live of {len(self.by_name)}, at most {self._max})"

    def counts(self) -> tuple[int, int]:
        """Return how many conversations are live, and how many of these have a request under way."""
        under_way, elsewhere, pausing, _ = map(len, self._in_phase)
        return under_way + elsewhere + pausing, under_way + elsewhere

    def find(self, session: str, keys: Sequence[int], deepest: int) -> Conversation | None:
        """Find the conversation that a request continues; `deepest` is the index of the deepest key held, or -1."""
        if session:
            return self.by_name.get(session)
        for at in range(deepest, max(-1, deepest - LOOK_BACK), -1):
            found = self.by_name.get(keys[at])
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
        """Note that a request of `known`, or of a conversation that begins, goes to where `resident` of its tokens are.

        Unless `in_flight` nobody will tell of its end. None for a request without any name: no session, and a prompt
        too short to have keys.
        """
        tail_at = tail_of(keys)
        name: Name = session or (keys[tail_at] if keys else "")
        if not name:
            return None
        if known is None:
            known = self.by_name.get(name)
        if known is None:
            known = self._begin(name, slot, resident, now_s)
            known.answered = not in_flight
        else:
            if in_flight:
                _set_aside(known)
            if known.name != name:
                self._rename(known, name)
            if not known.under_way:
                self.silence.went_on(now_s - known.seen_s)
        known.turn += 1
        known.stands, known.writer = known.turn, ""
        known.in_flight += in_flight
        self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)
        self._settle(known, slot, tokens, known.shared if known.slot == slot else resident)
        known.born_ms = self._born.get(slot, 0)
        known.prompt_bytes, known.prompt_tokens = prompt_bytes, 0
        known.tail_at, known.tail = tail_at, keys[tail_at] if keys else 0
        return known

    def answered(self, known: Conversation, turn: int, tokens: int = 0) -> bool:
        """Keep what a turn brought, since an answer to it began; True if that changes the footprint.

        `tokens`: length of a prompt that did not count before, since it was only announced; 0 for any other.
        """
        if known.slot == NO_SLOT or known.answered:
            return False
        if turn != known.stands:
            kept = known.pending.pop(turn, None) if known.pending else None
            if kept is not None and (known.before is None or known.before.stands < turn):
                known.before = kept
            return False
        known.answered, known.before, known.pending = True, None, None
        if tokens <= known.tokens:
            return False
        self._settle(known, known.slot, tokens, known.shared)
        return True

    def ended(self, known: Conversation, now_s: float, turn: int = 0, *, served: bool = True) -> None:
        """End a request that was under way at this edge, of that turn or, for 0, of the last one.

        Not `served`: no answer to the request began, and what it brought is taken back.
        """
        if known.slot == NO_SLOT:
            return
        known.in_flight -= 1
        self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)
        if served:
            self.answered(known, turn or known.stands)
        else:
            self._take_back(known, turn or known.stands)

    def _take_back(self, known: Conversation, turn: int) -> None:
        """Restore a conversation as it was before a turn that nobody answered."""
        if known.answered:
            return
        if turn != known.stands:
            if known.pending:
                known.pending.pop(turn, None)
            return
        if known.pending:
            kept: Conversation | None = known.pending.pop(max(known.pending))
        else:
            kept, known.before, known.answered = known.before, None, True
        if (
            kept is None
            or self._homes.get(kept.slot) != kept.home
            or 0 < kept.born_ms < self._born.get(kept.slot, 0)
            or (kept.name != known.name and kept.name in self.by_name)
        ):
            # There is no state before, its replica or its engine is gone, or its name is taken.
            self._drop(known)
            return
        if kept.name != known.name:
            self._rename(known, kept.name)
        # A greater state than the one that is taken back, which was published.
        known.turn += 1
        known.stands = kept.stands
        self._settle(known, kept.slot, kept.tokens, kept.shared)
        _describe(known, kept)

    def served_by(self, known: Conversation, turn: int, slot: int, *, lost: bool = False) -> None:
        """Note that another slot than the one placed on answered a turn, and has all of its KV.

        `lost`: the KV was there, and the engine has restarted since.
        """
        if known.slot == NO_SLOT:
            return
        if turn == known.stands:
            if known.slot != slot:
                # Edges that have the placement's state would else keep one of the two homes by its name.
                known.turn += 1
                self._settle(known, slot, known.tokens, 0)
                if lost:
                    self._drop(known)
        elif known.before is not None and turn == known.before.stands:
            # A later turn describes it, here or at another edge: that one's home is not for this request to say.
            home, born_ms = self._homes.get(slot, ""), self._born.get(slot, 0)
            moved = replace(known.before, slot=slot, home=home, born_ms=born_ms, shared=0)
            known.before = None if lost else moved

    def told(
        self, known: Conversation, slot: int, prompt_bytes: int, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Take over the lengths that an engine reported of a conversation's request to `slot`."""
        # A later request of the same conversation may be under way; its lengths count.
        if known.slot == slot and known.prompt_bytes == prompt_bytes:
            tokens = prompt_tokens + completion_tokens
            if known.prompt_tokens and (tokens, prompt_tokens) < (known.tokens, known.prompt_tokens):
                return  # another request of the same length was reported: the longer is right, as on other edges
            known.prompt_tokens = prompt_tokens
            self._settle(known, slot, tokens, min(known.shared, tokens))

    def learn(self, state: Conversation, slot: int, *, was: Name | None = None) -> bool:
        """Take over a state that another edge published, if it is greater than the one known here; True if it was.

        - `state`: an empty `home` says that its writer dropped the conversation; a state of another writer stays.
        - `slot`: of its home; NO_SLOT where that is not registered here, and the state is of no use.
        - `was`: the name that the conversation gave up, None where it kept its name.
        """
        if was is not None and was != state.name:
            before = self.by_name.get(was)
            if before is not None and before.turn < state.turn:
                self._drop(before)
        known = self.by_name.get(state.name)
        if not state.home:
            if known is not None and known.writer == state.writer:
                self._drop(known)
            return known is not None and known.slot == NO_SLOT
        if slot == NO_SLOT or 0 < state.born_ms < self._born.get(slot, 0):
            return False
        if known is not None and not state.outranks(known):
            return False
        if known is None:
            known = self._begin(state.name, slot, state.shared, state.seen_s)
        elif not known.under_way and state.turn > known.turn:
            self.silence.went_on(max(0.0, state.seen_s - known.seen_s))
        if not known.in_flight:
            self._become(known, state.phase, max(state.seen_s, known.seen_s))
        self._settle(known, slot, state.tokens, state.shared)
        _describe(known, state)
        known.turn, known.writer = state.turn, state.writer
        known.stands, known.answered, known.before, known.pending = 0, True, None, None
        return True

    def expire(self, now_s: float) -> int:
        """End the share of silent conversations, and drop those silent for the ttl; return how many of these."""
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
        return len(over)

    def add_slot(self, slot: int, home: str) -> None:
        """Note that a replica with the id `home` takes a slot."""
        self._homes[slot] = home

    def clear_slot(self, slot: int) -> list[Name]:
        """Drop the conversations of a replica that left; return the names of those that this edge wrote."""
        names = self.engine_started(slot, 0, restarted=True)
        self._homes.pop(slot, None)
        del self._born[slot]
        return names

    def engine_started(self, slot: int, born_ms: int, *, restarted: bool = False) -> list[Name]:
        """Drop the conversations whose KV an earlier incarnation of the engine on a slot had.

        Returns the names of those that this edge wrote.

        - `born_ms`: start time of the incarnation that reports, in milliseconds since 1970; 0 is unknown.
        - `restarted`: another incarnation was there before. Otherwise conversations of an unknown incarnation stay.
        """
        if born_ms <= self._born.get(slot, 0) and not restarted:
            return []
        self._born[slot] = born_ms
        if not self.of_slot.get(slot):
            return []
        least_ms = 0 if restarted else 1
        dropped = [
            known
            for known in self.by_name.values()
            if known.slot == slot and (not born_ms or least_ms <= known.born_ms < born_ms)
        ]
        for known in dropped:
            self._drop(known)
        return [known.name for known in dropped if not known.writer]

    def _begin(self, name: Name, slot: int, shared: int, now_s: float) -> Conversation:
        if len(self.by_name) >= self._max:
            longest_silent = chain.from_iterable(phase.values() for phase in reversed(self._in_phase))
            for known in list(islice(longest_silent, min(EVICTION_BATCH, self._max))):
                self._drop(known)
                self.evicted += 1
        known = self.by_name[name] = Conversation(name, slot, shared, shared, 0, 0, -1, 0, now_s, 0)
        known.home = self._homes.get(slot, "")
        self._in_phase[known.phase][name] = known
        self.of_slot[slot] = self.of_slot.get(slot, 0) + 1
        return known

    def _rename(self, known: Conversation, name: Name) -> None:
        """Rename a conversation; the name may have been that of a prompt that ended alike."""
        alike = self.by_name.get(name)
        if alike is not None:
            known.turn = max(known.turn, alike.turn)
            self._drop(alike)
        for table in (self.by_name, self._in_phase[known.phase]):
            del table[known.name]
            table[name] = known
        known.name = name

    def _become(self, known: Conversation, phase: Phase, seen_s: float) -> None:
        name, before = known.name, known.phase
        known.seen_s, known.phase = seen_s, phase
        del self._in_phase[before][name]
        self._in_phase[phase][name] = known
        if phase is not before and DORMANT in (phase, before):
            self._columns.add_footprint(known.slot, known.own if known.live else -known.own)

    def _settle(self, known: Conversation, slot: int, tokens: int, shared: int) -> None:
        """Put a conversation's KV on a slot: `tokens` of it, `shared` of these brought by others."""
        columns, before = self._columns, known.own
        known.tokens, known.shared = tokens, shared
        if known.slot == slot:
            if known.live:
                columns.add_footprint(slot, known.own - before)
            return
        if known.live:
            columns.add_footprint(known.slot, -before)
            columns.add_footprint(slot, known.own)
        self.of_slot[known.slot] -= 1
        self.of_slot[slot] = self.of_slot.get(slot, 0) + 1
        known.slot, known.home, known.born_ms = slot, self._homes.get(slot, ""), self._born.get(slot, 0)

    def _drop(self, known: Conversation) -> None:
        del self.by_name[known.name]
        del self._in_phase[known.phase][known.name]
        if known.live:
            self._columns.add_footprint(known.slot, -known.own)
        self.of_slot[known.slot] -= 1
        known.slot, known.home, known.in_flight = NO_SLOT, "", 0
        known.before = known.pending = None


def _set_aside(known: Conversation) -> None:
    """Copy a conversation before another request, to come back to if nobody answers that."""
    kept = replace(known, before=None, pending=None)
    if known.answered:
        known.before, known.answered = kept, False
    else:
        if known.pending is None:
            known.pending = {}
        known.pending[known.stands] = kept


def _describe(known: Conversation, state: Conversation) -> None:
    """Give a conversation the incarnation and the last prompt of one of its states."""
    known.born_ms = state.born_ms
    known.prompt_bytes, known.prompt_tokens = state.prompt_bytes, state.prompt_tokens
    known.tail_at, known.tail = state.tail_at, state.tail


def _seen_s(known: Conversation) -> float:
    return known.seen_s


def _seen_until(table: dict[Name, Conversation], at_s: float) -> list[Conversation]:
    """Return the conversations not seen after that moment, of a table in the order of `seen_s`."""
    return list(takewhile(lambda known: known.seen_s <= at_s, table.values()))
