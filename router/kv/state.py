"""All that is known of the fleet's KV, behind one door: what a decision reads of it, and what changes it.

`KVState` owns the owners: prefix index, prefill backlog, prefill times, conversations, token ratio, and the engines'
feeds. The pipeline reads a `Prompt` and says where it was placed; engines tell through `apply`; HAProxy's lines end
what no engine told of. Plain and synchronous, without clock or sockets: a simulator drives it as the router does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pointsman.contract.events import EngineEvents, EngineLoad, Finished, FirstToken, Handoffs
from pointsman.contract.prefix_keys import BOUNDARIES, MAX_KEYS
from pointsman.contract.registration import leg_id
from pointsman.policies.candidates import NO_SLOT, Candidates, KVSignals
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.features import MAX_PROMPT_TOKENS
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Name
from pointsman.router.kv.conversations import CONVERSATION_TTL_S, MAX_CONVERSATIONS, Conversations
from pointsman.router.kv.event_cursor import EventCursor
from pointsman.router.kv.key_tokens import KeyTokens
from pointsman.router.kv.lessons import Lessons
from pointsman.router.kv.mirrors import Mirrors
from pointsman.router.kv.outbox import KVOutbox
from pointsman.router.kv.parts import KVCounters, Placement, Prompt, arrived_tokens, best_of, deepest_of
from pointsman.router.kv.prefill_backlog import PrefillBacklog
from pointsman.router.kv.prefill_times import PrefillTimes
from pointsman.router.kv.prefix_index import MAX_KEYS as MAX_INDEX_KEYS
from pointsman.router.kv.prefix_index import PrefixIndex
from pointsman.router.kv.token_ratio import TokenRatio

EXPECTED_S = 30.0
"""How long keys are expected on a replica that reports what it stores."""

EXPECTED_UNTOLD_S = 300.0
"""The same where nothing is ever reported (a plain endpoint): as long as caches under load keep an idle prompt."""

MAX_PLACEMENTS = 262_144
"""Requests and prefill legs that engines may still speak of, under way or ended. When met, the oldest goes."""

PLACEMENT_TTL_S = 3600.0
LINGER_S = 5.0
"""HAProxy's line may overtake the engine's message; a request that ended is remembered for so long."""


class KVState:
    """The fleet's KV."""

    def __init__(
        self,
        *,
        max_keys: int = MAX_INDEX_KEYS,
        max_conversations: int = MAX_CONVERSATIONS,
        conversation_ttl_s: float = CONVERSATION_TTL_S,
    ) -> None:
        self.columns = KVColumns()
        self.index = PrefixIndex(max_keys=max_keys)
        self.backlog = PrefillBacklog(self.columns)
        self.times = PrefillTimes(self.columns)
        self.conversations = Conversations(self.columns, ttl_s=conversation_ttl_s, max_conversations=max_conversations)
        self.ratio = TokenRatio()
        self.key_tokens = KeyTokens()
        self._is_silence_known = False
        self.counters = KVCounters()
        self._lessons = Lessons(times=self.times, ratio=self.ratio, key_tokens=self.key_tokens, counters=self.counters)
        self._feeds: dict[int, EventCursor] = {}
        self._lives = 0
        """Of all engines, that were seen to begin: replicas that came, and restarts."""
        self._began: dict[int, int] = {}
        """By slot, which of them its engine's life is."""
        self._mirrors = Mirrors(self.index)
        self._placements: dict[str, Placement] = {}
        self.on_prefilled: Callable[[str], None] = lambda request_id: None
        """Called with the id of a request, or of a prefill leg, whose prompt is computed or not wanted any more."""
        self._legs: set[str] = set()
        """Prefill legs under way, by their ids."""
        self._ended: deque[tuple[float, str]] = deque()
        self.outbox: KVOutbox | None = None
        """What other edges are to learn with the next batch; None on an edge that is alone."""

    def __repr__(self) -> str:
        return f"KVState({self.index!r}, {self.conversations!r}, {len(self.backlog)} waiting)"

    @property
    def signals(self) -> KVSignals:
        """The columns policies read."""
        return self.columns.signals

    # Slots

    def add_slot(self, slot: int, replica_id: str) -> None:
        """A replica takes a slot."""
        self.columns.add_slot(slot)
        self.index.add_slot(slot)
        self.conversations.add_slot(slot, replica_id)
        self._feeds[slot] = EventCursor()
        self._life_began(slot)

    def clear_slot(self, slot: int) -> None:
        """Its replica left."""
        if self.outbox is not None:
            self.outbox.clear_slot(slot)
        self.backlog.clear_slot(slot)
        self.times.clear_slot(slot)
        self._dropped(self.conversations.clear_slot(slot))
        self.columns.clear_slot(slot)
        self.index.clear_slot(slot)
        self._mirrors.drop(slot)
        del self._feeds[slot], self._began[slot]

    def sized(self, slot: int, capacity_tokens: int) -> None:
        """An endpoint there, which tells nothing itself, has room for so many tokens of KV, more than 0: whoever read
        its cache configuration says so. May be called again."""
        self.columns.set_capacity(slot, capacity_tokens)
        if self.reports(slot):
            return
        self._mirrors.sized(slot, capacity_tokens)

    def hit(self, slot: int, total_tokens: int) -> None:
        """An endpoint there, which tells nothing itself, found so many tokens cached in its life."""
        self._mirrors.hit(slot, total_tokens)

    def load(self, slot: int) -> EngineLoad | None:
        """What the engine last said of its load."""
        return self._feeds[slot].load

    def handoffs(self, slot: int) -> Handoffs | None:
        """What the decode replica there last said of its prompts computed elsewhere."""
        return self._feeds[slot].handoffs

    def told_load(self, slot: int, load: EngineLoad) -> None:
        """Somebody looked at the engine on a slot, which tells nothing itself."""
        self._feeds[slot].load = load

    def reports(self, slot: int) -> bool:
        """Whether an engine there tells what it stores."""
        return bool(self._feeds[slot].epoch)

    # A decision

    def read(self, features: RequestFeatures, now_s: float, limit: int = MAX_PROMPT_TOKENS) -> Prompt:
        """Predicts a prompt's length, at most `limit` tokens, and who holds how much of it."""
        self.backlog.expire(now_s)
        self.index.expire(now_s)
        keys = features.prefix_keys[:MAX_KEYS]
        levels = self.index.match(keys) if keys else ()
        known = self.conversations.find(features.session, keys, levels[0][0] if levels else -1)
        per_byte = 1.0 / self.ratio.bytes_per_token(features.model)
        size = max(features.body_bytes, BOUNDARIES[len(keys) - 1] if keys else 0)
        continues = (
            known is not None
            and features.session != ""
            and size >= known.prompt_bytes
            and known.tail_at < len(keys)
            and (known.tail_at < 0 or keys[known.tail_at] == known.tail)
        )
        signals = self.columns.signals
        under_way = self.conversations.under_way_share
        signals.active_usage = signals.usage * under_way
        signals.certainty = 1.0 if self._is_silence_known else under_way
        tokens, resident = self.key_tokens.measure(keys, levels, size, per_byte, known, continues=continues)
        tokens = min(tokens, limit)
        arrived = arrived_tokens(features, known, tokens, per_byte) if features.missing_bytes else tokens
        return Prompt(tokens, levels, resident, known, arrived)

    def placed(
        self,
        features: RequestFeatures,
        prompt: Prompt,
        slot: int,
        candidates: Candidates,
        now_s: float,
        *,
        prefill: int = NO_SLOT,
    ) -> None:
        """A decision sent the prompt to a slot: its keys are expected there, its prefill is in front of others.

        With `prefill`, a slot too, the keys are expected on both, and the prefill is in front of the others there.
        """
        feed, counters = self._feeds[slot], self.counters
        cached = feed.whole_blocks(prompt.resident.tokens(slot))
        counters.selected_cached_tokens += cached
        counters.best_cached_tokens += best_of(prompt.resident, candidates, cached)
        whole = prompt.whole
        # A sequence that does not fit the replica's KV is refused by its engine.
        tokens = min(prompt.tokens, self.columns.room(slot))
        uncached = max(1, tokens - cached)
        keys = features.prefix_keys[:MAX_KEYS]
        at = deepest_of(prompt, slot)
        if keys:
            self._expect(slot, keys, at + 1, prompt, now_s)
            if prefill != NO_SLOT:
                self._expect(prefill, keys, deepest_of(prompt, prefill) + 1, prompt, now_s)
        request_id = features.request_id
        known = prompt.conversation
        was = known.name if known is not None else None
        resident = min(cached, tokens)
        # Room is saved for what arrived, not for what was announced.
        counted = tokens if whole else known.tokens if known is not None and known.slot == slot else resident
        known = self.conversations.place(
            known,
            features.session,
            slot,
            keys,
            tokens=counted,
            resident=resident,
            prompt_bytes=features.body_bytes,
            now_s=now_s,
            in_flight=bool(request_id),
        )
        if self.outbox is not None and known is not None:
            self.outbox.add_conversation(known, was)
        if not request_id:
            return
        self._make_room(request_id, now_s)
        self._placements[request_id] = Placement(
            slot,
            features.model,
            features.body_bytes,
            cached,
            uncached,
            self.columns.waiting(slot),
            now_s,
            known,
            prefill != NO_SLOT,
            keys,
            at,
            0 if known is None else known.stands,
            0 if whole else tokens,
            lives=self._lives,
        )
        if prefill == NO_SLOT:
            # Nothing says that an announced prompt will come, so its silence is given no grace.
            waiting = uncached if whole else min(uncached, prompt.arrived)
            self.backlog.add(request_id, slot, waiting, now_s, reports=bool(feed.epoch) and whole)
        else:
            self._leg_placed(features, prompt, prefill, now_s)

    def _leg_placed(self, features: RequestFeatures, prompt: Prompt, slot: int, now_s: float) -> None:
        leg, cached = leg_id(features.request_id), prompt.resident.tokens(slot)
        uncached = max(1, min(prompt.tokens, self.columns.room(slot)) - cached)
        ahead = self.columns.waiting(slot)
        self._make_room(leg, now_s)
        self._placements[leg] = Placement(
            slot, features.model, features.body_bytes, cached, uncached, ahead, now_s, None
        )
        self._legs.add(leg)
        waiting = uncached if prompt.whole else min(uncached, prompt.arrived)
        self.backlog.add(leg, slot, waiting, now_s, reports=self.reports(slot) and prompt.whole)

    def _make_room(self, request_id: str, now_s: float) -> None:
        placements = self._placements
        if request_id in placements:
            self._forget(request_id, now_s)
        elif len(placements) >= MAX_PLACEMENTS:
            self._forget(next(iter(placements)), now_s)

    def _expect(self, slot: int, keys: Sequence[int], start: int, prompt: Prompt, now_s: float) -> None:
        """The slot will hold the prompt's keys from `start` on."""
        if not self._mirrors.enter(slot, keys, start, prompt):
            self.index.expect(slot, keys, start, now_s + (EXPECTED_S if self.reports(slot) else EXPECTED_UNTOLD_S))
        if self.outbox is not None and start < len(keys):
            self.outbox.add_expected(slot, keys[start:])

    def _release(self, request_id: str, *, first_s: float | None = None) -> bool:
        """The prompt was computed at `first_s`, here or by its prefill leg, or is not wanted any more."""
        self.on_prefilled(request_id)
        if self._legs:
            leg = leg_id(request_id)
            if leg in self._legs:
                self._legs.discard(leg)
                self.backlog.release(leg)
        return self.backlog.release(request_id, first_s=first_s)

    # What came of it

    def first_token(self, request_id: str, now_s: float, took_ms: float = 0.0) -> None:
        """HAProxy saw the first token: just now, or `took_ms` after the request where it was timed."""
        placement = self._placements.get(request_id)
        first_s = now_s
        if placement is not None:
            self._answered(placement)
            if took_ms > 0:
                first_s = min(now_s, placement.made_s + took_ms / 1000)
        if self._release(request_id, first_s=first_s) and took_ms > 0 and placement is not None:
            self._lessons.prefill_time(placement, took_ms)

    def ended(self, request_id: str, now_s: float, *, served_by: int = NO_SLOT, served: bool = True) -> None:
        """HAProxy saw the end of a request; `served_by`: the slot it really went to, where that is known. Not `served`:
        no answer with a status of 2xx began."""
        self._release(request_id)
        placement = self._placements.get(request_id)
        if placement is not None:
            if served:
                self._answered(placement)
                if placement.conversation is not None and served_by not in (NO_SLOT, placement.slot):
                    # Of the life before, which may have answered, nothing is kept.
                    lost = self._began[served_by] > placement.lives
                    self.conversations.served_by(placement.conversation, placement.turn, served_by, lost=lost)
            elif placement.slot in self._feeds:  # its replica may have left meanwhile
                # What nobody computed is nowhere resident, unless a replica says so.
                self.index.unexpect(placement.slot, placement.keys[placement.at + 1 :])
            self._over(placement, now_s)
            self._ended.append((now_s, request_id))
            if placement.paired:
                self._ended.append((now_s, leg_id(request_id)))
            while len(self._ended) > MAX_PLACEMENTS:
                self._forget(self._ended.popleft()[1], now_s)

    def _answered(self, placement: Placement) -> None:
        """An answer began: what the request brought stays."""
        if placement.answered:
            return
        placement.answered = True
        known = placement.conversation
        if known is None:
            return
        if self.conversations.answered(known, placement.turn, placement.claimed) and self.outbox is not None:
            self.outbox.add_conversation(known)

    def _over(self, placement: Placement, now_s: float) -> None:
        """A request is no longer under way; said by whoever knows first."""
        known = placement.conversation
        if placement.under_way and known is not None and known.slot != NO_SLOT:
            was = known.name
            self.conversations.ended(known, now_s, placement.turn, served=placement.answered)
            if self.outbox is not None:
                if known.slot == NO_SLOT:
                    self.outbox.add_dropped((was,))
                else:
                    self.outbox.add_conversation(known, was)
        placement.under_way = False

    def apply(self, slot: int, events: EngineEvents, now_s: float) -> bool:
        """Takes a message of the engine on a slot; True when it must send a snapshot."""
        counters, index = self.counters, self.index
        counters.messages += 1
        feed = self._feeds[slot]
        # Late words of an earlier life do not end this one.
        if events.epoch in feed.past:
            in_step = False
        else:
            if feed.epoch and events.epoch != feed.epoch:
                self.restarted(slot, events.born_ms)
            # A mirror was a guess: from here on the engine tells.
            if events.snapshot and self._mirrors.drop(slot):
                index.forget(slot)
            in_step = feed.apply(index, slot, events)
        if in_step:
            self._dropped(self.conversations.engine_started(slot, events.born_ms))
            counters.keys += len(events.stored) + len(events.evicted)
            if events.tokens:
                self.key_tokens.told(events.stored, events.tokens)
        else:
            counters.resyncs += 1
        if events.capacity_tokens:
            self.columns.set_capacity(slot, events.capacity_tokens)
        if events.block_tokens:
            feed.block_tokens = events.block_tokens
        if events.load is not None:
            feed.load = events.load
        if events.handoffs is not None:
            feed.handoffs = events.handoffs
        self._requests(slot, events, now_s)
        return not in_step

    def _requests(self, slot: int, events: EngineEvents, now_s: float) -> None:
        for first in events.first:
            self._first(slot, first, now_s)
        for finished in events.finished:
            self._finished(slot, finished, now_s)

    def stop_reports(self, slot: int) -> None:
        """The engine's reports reach this edge no more, though the replica stays: its keys would only grow stale. From
        here on it is an endpoint that reports nothing, until it sends a snapshot."""
        feed = self._feeds[slot]
        if feed.epoch:
            self.index.forget(slot)
            feed.lost()

    def expect(self, slot: int, keys: Sequence[int], now_s: float) -> None:
        """Another edge sent a prompt with these prefix keys to a slot: it will hold them soon."""
        self.index.expect(slot, keys, 0, now_s + (EXPECTED_S if self.reports(slot) else EXPECTED_UNTOLD_S))

    def cursor(self, slot: int) -> EventCursor:
        """How far the engine there is followed; for reading only."""
        return self._feeds[slot]

    def restarted(self, slot: int, born_ms: int = 0) -> None:
        """Another life of the engine: its cache is empty, and what waited there is gone. How fast it is, stays."""
        self.counters.restarts += 1
        self._mirrors.restarted(slot)
        self.index.forget(slot)
        self._dropped(self.conversations.engine_started(slot, born_ms, restarted=True))
        self.backlog.clear_slot(slot)
        self._feeds[slot].restarted()
        self._life_began(slot)

    def _dropped(self, names: list[Name]) -> None:
        if self.outbox is not None and names:
            self.outbox.add_dropped(names)

    def _life_began(self, slot: int) -> None:
        self._lives += 1
        self._began[slot] = self._lives

    def _first(self, slot: int, first: FirstToken, now_s: float) -> None:
        self._release(first.id, first_s=now_s)
        placement = self._placements.get(first.id)
        if placement is None or placement.slot != slot:
            return
        self._answered(placement)
        if not first.prompt_tokens:
            return
        self._lessons.first_token(placement, first)
        known = placement.conversation
        if known is not None and known.slot != NO_SLOT:
            self.conversations.told(known, slot, placement.prompt_bytes, first.prompt_tokens, 0)
            if self.outbox is not None:
                self.outbox.add_conversation(known)

    def _finished(self, slot: int, finished: Finished, now_s: float) -> None:
        self._release(finished.id)
        placement = self._placements.pop(finished.id, None)
        if placement is None:
            return
        known, prompt_tokens = placement.conversation, finished.prompt_tokens
        if finished.completion_tokens:
            self._answered(placement)
        if placement.slot == slot:
            # What it did not store by now it never will, or it is gone again.
            self.index.unexpect(slot, placement.keys[placement.at + 1 :])
            if known is not None and known.slot != NO_SLOT and prompt_tokens:
                self.conversations.told(known, slot, placement.prompt_bytes, prompt_tokens, finished.completion_tokens)
                if self.outbox is not None:
                    self.outbox.add_conversation(known)
        self._over(placement, now_s)

    def expire(self, now_s: float) -> None:
        """Ends what is overdue; called a few times a second."""
        self.backlog.expire(now_s)
        self.index.expire(now_s)
        self.conversations.expire(now_s)
        self._is_silence_known = self.conversations.silence.is_known
        ended = self._ended
        while ended and ended[0][0] <= now_s - LINGER_S:
            self._forget(ended.popleft()[1], now_s)
        placements = self._placements
        while placements:
            request_id, oldest = next(iter(placements.items()))
            if oldest.made_s > now_s - PLACEMENT_TTL_S:
                break
            self._forget(request_id, now_s)

    def _forget(self, request_id: str, now_s: float) -> None:
        placement = self._placements.pop(request_id, None)
        if placement is not None:
            self._over(placement, now_s)
        self._release(request_id)

    def validate(self) -> None:
        """Raises AssertionError when an owner contradicts itself (tests call it after every step)."""
        self.index.validate()
        self.backlog.validate()
        self.conversations.validate()
