"""Live conversations: who keeps whose KV, and how much of it.

`Conversations` owns one entry for each conversation seen within the last `ttl_s`: the slot its last request went to,
what it keeps there, and the exact length of its last prompt where the engine told it.

**Live** is one with a request under way, or silent for less than `silence.patience_s`: it is more likely to go on than
not. The sum over the live by slot is the column `footprint`: KV that will be asked for again, which is what an eviction
can harm. The others are *dormant*: nobody saves room for them, and should one go on its home is still known.

A conversation is named by its session key. Without one it is named by a key near the end of its prompt, which its next
prompt contains; prompts that end alike are then one conversation, and so is their KV.

**Edges that heard the same, in any order, have the same table.** It keeps of each conversation the greatest word that
was heard, by `Conversation.rank`, also when nobody's KV is behind it: a replica that left or an engine that restarted
takes its conversations' homes and never their words, which are told, and are in snapshots, like any other. Whether a
word has a home follows from what all edges are told: which replicas are registered, and when the life of each engine
began. Only where an engine does not say that, the loss itself is told, and makes the word greater.

So a conversation that lost its home begins again, but its turns go on.

**What a client announces is pending until it is answered.** From its decision on a request counts, so that those who
come next find the room taken; it stays only when an answer begins (`answered`). A request that ends without one, be it
refused or left by its client, leaves the conversation as it was last answered, and without a home where it never was.

**Shared heads count once.** What others had resident there when a conversation came (a system prompt) is not its own:
its share of the footprint is what it brought.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, takewhile

from msgspec.structs import replace

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.edges.homeless import MAX_HOMELESS, Homeless
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import DORMANT, PAUSING, UNDER_WAY, Conversation, Kept, Name, Phase, tail_of
from pointsman.router.kv.idle_timeout import Silence

MAX_CONVERSATIONS = 200_000
"""About 80 MB. When met, the longest silent go, a batch at a time."""

CONVERSATION_TTL_S = 120.0
"""A conversation silent for longer is over: agents come back within seconds, people within a minute or two."""

UNDER_WAY_ELSEWHERE_S = 60.0
"""How long a request that another edge has under way may take until that edge's silence counts as its end."""

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
        self._known: dict[Name, Conversation] = {}
        self._in_phase: tuple[dict[Name, Conversation], ...] = tuple({} for _ in Phase)
        """Each in the order of `seen_s`, or nearly where other edges have a say."""
        self._of_slot: dict[int, int] = {}
        self._homes: dict[int, str] = {}
        """By slot, its replica's id."""
        self._born: dict[int, int] = {}
        """By slot, when the life of its engine began that is known; not where that is unsaid."""
        self._homeless = Homeless()
        self.silence = Silence(ttl_s)
        self.evicted = 0
        """Conversations dropped because the table was full."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Conversation]:
        """Least recently seen first."""
        return iter(sorted(self._known.values(), key=_seen_s))

    def words(self) -> list[Conversation]:
        """The last word on each, also where it has no home; least recently seen first."""
        return sorted([*self._known.values(), *self._homeless], key=_seen_s)

    def word(self, name: Name) -> Conversation | None:
        """The last word on one."""
        return self._known.get(name) or self._homeless.get(name)

    def __repr__(self) -> str:
        return f"Conversations({self.live} live of {len(self)}, at most {self._max}; {len(self._homeless)} homeless)"

    @property
    def live(self) -> int:
        """Conversations whose KV counts."""
        return len(self._known) - len(self._in_phase[Phase.DORMANT])

    @property
    def under_way_share(self) -> float:
        """Share of the live ones that have a request under way; 0 without any."""
        under_way, elsewhere, pausing, _ = map(len, self._in_phase)
        live = under_way + elsewhere + pausing
        return (under_way + elsewhere) / live if live else 0.0

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
            known.answered = not in_flight
        else:
            if in_flight:
                _set_aside(known)
            if known.name != name:
                self._rename(known, name)
            if not known.under_way:
                self.silence.went_on(now_s - known.seen_s)
        known.turn += 1
        known.stands = known.turn
        known.in_flight += in_flight
        self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)
        self._settle(known, slot, tokens, known.shared if known.slot == slot else resident)
        known.born_ms = self._born.get(slot, 0)
        known.prompt_bytes, known.prompt_tokens = prompt_bytes, 0
        known.tail_at, known.tail = tail_at, keys[tail_at] if keys else 0
        return known

    def answered(self, known: Conversation, turn: int, tokens: int = 0) -> bool:
        """An answer to that turn began: what it brought stays. True if that changes what is kept.

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
        """A request of that turn (0: the last) that was under way at this edge is over. Not `served`: no answer to it
        began, and what it brought is taken back."""
        if known.slot == NO_SLOT:
            return
        known.in_flight -= 1
        self._become(known, UNDER_WAY if known.in_flight else PAUSING, now_s)
        if served:
            self.answered(known, turn or known.stands)
        else:
            self._take_back(known, turn or known.stands)

    def _take_back(self, known: Conversation, turn: int) -> None:
        """Nobody answered that turn: the conversation is as it was before."""
        if known.answered:
            return
        if turn != known.stands:
            if known.pending:
                known.pending.pop(turn, None)
            return
        if known.pending:
            kept: Kept | None = known.pending.pop(max(known.pending))
        else:
            kept, known.before, known.answered = known.before, None, True
        if kept is None or not self._is_there(kept) or (kept.name != known.name and kept.name in self._known):
            self._unhouse(known, lost=True)
            return
        if kept.name != known.name:
            self._rename(known, kept.name)
        # A greater word than the one that is taken back, which other edges were told.
        known.turn += 1
        known.stands = kept.stands
        self._settle(known, kept.slot, kept.tokens, kept.shared)
        known.born_ms = kept.born_ms
        known.prompt_bytes, known.prompt_tokens = kept.prompt_bytes, kept.prompt_tokens
        known.tail_at, known.tail = kept.tail_at, kept.tail

    def _is_there(self, kept: Kept) -> bool:
        """Whether its replica is registered, and the engine with its KV was not seen to restart."""
        return self._homes.get(kept.slot) == kept.home and not 0 < kept.born_ms < self._born.get(kept.slot, 0)

    def served_by(self, known: Conversation, turn: int, slot: int, *, lost: bool = False) -> None:
        """An answer to that turn came from another slot than it was placed on: its KV is there, all of it its own.
        `lost`: it was, and the engine there has begun another life since."""
        if known.slot == NO_SLOT:
            return
        if turn == known.stands:
            if known.slot != slot:
                # Edges that were told of the placement would else take one of the two homes by its name.
                known.turn += 1
                self._settle(known, slot, known.tokens, 0)
                if lost:
                    self._unhouse(known, lost=True)
        elif known.before is not None and turn == known.before.stands:
            # A later turn describes it, here or at another edge: that one's home is not for this request to say.
            home, born_ms = self._homes.get(slot, ""), self._born.get(slot, 0)
            moved = replace(known.before, slot=slot, home=home, born_ms=born_ms, shared=0)
            known.before = None if lost else moved

    def told(
        self, known: Conversation, slot: int, prompt_bytes: int, prompt_tokens: int, completion_tokens: int
    ) -> None:
        """The engine said how long prompt and answer of the conversation's request to `slot` are."""
        # A later request of the same conversation may be under way; its lengths count.
        if known.slot == slot and known.prompt_bytes == prompt_bytes:
            tokens = prompt_tokens + completion_tokens
            if known.prompt_tokens and (tokens, prompt_tokens) < (known.tokens, known.prompt_tokens):
                return  # another request of the same length was told of: the longer is right, as other edges have it
            known.prompt_tokens = prompt_tokens
            self._settle(known, slot, tokens, min(known.shared, tokens))

    def get(self, name: Name) -> Conversation | None:
        return self._known.get(name)

    def learn(self, word: Conversation, slot: int, *, was: Name | None = None) -> bool:
        """Takes another edge's word, which is the table's from here on, if it is greater than what is known; True if it
        was. `slot` is that of its home, NO_SLOT where that is not registered; `was` its name before, which it gave up.
        """
        if was is not None and was != word.name:
            self._give_up(was, word.turn)
        before = self.word(word.name)
        word.lost = word.lost or 0 < word.born_ms < self._born.get(slot, 0)
        if before is not None and not word.outranks(before):
            return False
        if slot == NO_SLOT or word.lost:
            if before is not None and before.slot != NO_SLOT:
                self._drop(before)
            self._homeless.put(word)
        else:
            self._take(word, slot)
        return True

    def _take(self, word: Conversation, slot: int) -> None:
        """That is so, and it is at home there."""
        known = self._known.get(word.name)
        if known is None:
            known = self._begin(word.name, slot, word.shared, word.seen_s)
        elif not known.under_way and word.turn > known.turn:
            self.silence.went_on(max(0.0, word.seen_s - known.seen_s))
        if not known.in_flight:
            self._become(known, word.phase, max(word.seen_s, known.seen_s))
        self._settle(known, slot, word.tokens, word.shared)
        known.born_ms, known.turn = word.born_ms, word.turn
        known.stands, known.answered, known.before, known.pending = 0, True, None, None
        known.prompt_bytes, known.prompt_tokens = word.prompt_bytes, word.prompt_tokens
        known.tail_at, known.tail = word.tail_at, word.tail

    def _give_up(self, name: Name, turn: int) -> None:
        """A conversation of that name goes on under another, at that turn."""
        before = self.word(name)
        if before is not None and before.turn < turn:
            if before.slot == NO_SLOT:
                self._homeless.pop(name)
            else:
                self._drop(before)

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
        self._homeless.expire(now_s - self.silence.ttl_s)
        return len(over)

    def add_slot(self, slot: int, home: str) -> None:
        """A replica takes a slot: conversations that are at home with it, for all that was heard, come home."""
        self._homes[slot] = home
        for word in self._homeless.of(home):
            self._take(word, slot)

    def clear_slot(self, slot: int) -> None:
        """Its replica left: its conversations begin again, wherever they go, unless it comes back before that."""
        self._uproot(slot, lambda known: True, lost=False)
        self._homes.pop(slot, None)
        self._born.pop(slot, None)

    def engine_lives(self, slot: int, born_ms: int, *, restarted: bool = False) -> Sequence[Name]:
        """A slot's engine began this life then (0: unsaid), and what others before it kept is lost. `restarted`: they
        are known to have been; else conversations of a life that nobody named stay.

        Returns those whose loss does not follow from when lives began: other edges must be told of it.
        """
        if born_ms <= self._born.get(slot, 0) and not restarted:
            return ()
        self._born[slot] = born_ms
        least_ms = 0 if restarted else 1
        lost = self._uproot(slot, lambda known: not born_ms or least_ms <= known.born_ms < born_ms, lost=True)
        return [known.name for known in lost if not 0 < known.born_ms < born_ms]

    def _uproot(self, slot: int, gone: Callable[[Conversation], bool], *, lost: bool) -> Sequence[Conversation]:
        """They have no home any more; `lost`: nor will they with that replica."""
        if not self._of_slot.get(slot):
            return ()
        uprooted = [known for known in self._known.values() if known.slot == slot and gone(known)]
        for known in uprooted:
            self._unhouse(known, lost=lost)
        return uprooted

    def _unhouse(self, known: Conversation, *, lost: bool) -> None:
        """It has no home any more, but a last word; `lost`: nor will it have one with that replica."""
        home = known.home
        self._drop(known)
        known.home, known.lost = home, lost
        known.phase = PAUSING if known.phase is UNDER_WAY else known.phase
        known.before = known.pending = None
        self._homeless.put(known)

    def _begin(self, name: Name, slot: int, shared: int, now_s: float) -> Conversation:
        if len(self._known) >= self._max:
            longest_silent = chain.from_iterable(phase.values() for phase in reversed(self._in_phase))
            for known in list(islice(longest_silent, min(EVICTION_BATCH, self._max))):
                self._drop(known)
                self.evicted += 1
        word = self._homeless.pop(name)
        turn = 0 if word is None else word.turn
        known = self._known[name] = Conversation(name, slot, shared, shared, 0, 0, -1, 0, now_s, turn)
        known.home = self._homes.get(slot, "")
        self._in_phase[known.phase][name] = known
        self._of_slot[slot] = self._of_slot.get(slot, 0) + 1
        return known

    def _rename(self, known: Conversation, name: Name) -> None:
        """It goes on under another name, which may have been that of a prompt that ended alike."""
        alike = self._known.get(name) or self._homeless.pop(name)
        if alike is not None:
            known.turn = max(known.turn, alike.turn)
            if alike.slot != NO_SLOT:
                self._drop(alike)
        for table in (self._known, self._in_phase[known.phase]):
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
        known.slot, known.home, known.born_ms = slot, self._homes.get(slot, ""), self._born.get(slot, 0)

    def _drop(self, known: Conversation) -> None:
        del self._known[known.name]
        del self._in_phase[known.phase][known.name]
        if known.live:
            self._columns.add_footprint(known.slot, -known.own)
        self._of_slot[known.slot] -= 1
        known.slot, known.home = NO_SLOT, ""

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
        assert len(self._homeless) <= MAX_HOMELESS, "more homeless conversations than the limit"
        assert all(one.slot == NO_SLOT and one.name not in self._known for one in self._homeless), "home or homeless?"
        assert all(one.home == self._homes.get(one.slot, "") for one in known), "a conversation at home elsewhere"
        assert sum(map(len, self._in_phase)) == len(self._known), "a conversation in no phase, or in two"
        assert all((one.phase is Phase.UNDER_WAY) == (one.in_flight > 0) for one in known), "under way or not?"


def _set_aside(known: Conversation) -> None:
    """Another request of it follows: what it keeps is what it goes back to if nobody answers that."""
    if known.answered:
        known.before, known.answered = known.kept, False
    else:
        if known.pending is None:
            known.pending = {}
        known.pending[known.stands] = known.kept


def _seen_s(known: Conversation) -> float:
    return known.seen_s


def _seen_until(table: dict[Name, Conversation], at_s: float) -> list[Conversation]:
    """Those not seen after that moment, of a table in the order of `seen_s`."""
    return list(takewhile(lambda known: known.seen_s <= at_s, table.values()))
