"""All that is known of the fleet's KV, behind one door: what a decision reads of it, and what changes it.

`KVState` owns the owners: prefix index, prefill backlog, prefill times, conversations, token ratio, and the engines'
feeds. A decision reads a `Prompt` and gets a `Placement` for it; engines report keys through `apply`. What became of a
placed request is for `pointsman.router.requests` to write. Plain and synchronous, without clock or sockets: a simulator
drives it as the router does.
"""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.contract.events import EngineEvents, EngineLoad
from pointsman.contract.prefix_keys import BOUNDARIES, MAX_KEYS
from pointsman.policies.candidates import NO_SLOT, Candidates
from pointsman.policies.request import RequestFeatures
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Conversation, Name
from pointsman.router.kv.conversations import CONVERSATION_TTL_S, MAX_CONVERSATIONS, Conversations
from pointsman.router.kv.event_cursor import EventCursor
from pointsman.router.kv.hit_rates import HitRates
from pointsman.router.kv.key_tokens import KeyTokens
from pointsman.router.kv.lessons import Lessons
from pointsman.router.kv.mirrors import Mirrors
from pointsman.router.kv.outbox import KVOutbox
from pointsman.router.kv.parts import (
    MAX_PROMPT_TOKENS,
    KVCounters,
    Placement,
    Prompt,
    arrived_tokens,
    best_of,
    deepest_of,
)
from pointsman.router.kv.prefill_backlog import PrefillBacklog
from pointsman.router.kv.prefill_times import PrefillTimes
from pointsman.router.kv.prefix_index import MAX_KEYS as MAX_INDEX_KEYS
from pointsman.router.kv.prefix_index import PrefixIndex
from pointsman.router.kv.token_ratio import TokenRatio

EXPECTED_S = 30.0
"""Time for which keys are expected on a replica that reports what it stores."""

EXPECTED_UNREPORTED_S = 300.0
"""Time for which keys are expected on a plain endpoint: as long as caches under load keep an idle prompt."""


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
        self.hit_rates = HitRates()
        self.lessons = Lessons(
            times=self.times,
            ratio=self.ratio,
            key_tokens=self.key_tokens,
            counters=self.counters,
            hit_rates=self.hit_rates,
        )
        self.cursors: dict[int, EventCursor] = {}
        """Place in the event stream of each engine, by slot; for others to read."""
        self._starts = 0
        """Starts of engines that were seen: replicas that came, and restarts."""
        self._mirrors = Mirrors(self.index)
        self.outbox: KVOutbox | None = None
        """Changes that other edges learn with the next batch; None on an edge that is alone."""

    def __repr__(self) -> str:
        return f"KVState({self.index!r}, {self.conversations!r}, {len(self.backlog)} waiting)"

    # Slots

    def add_slot(self, slot: int, replica_id: str) -> None:
        """Make room for a replica on a slot."""
        self.columns.add_slot(slot)
        self.index.add_slot(slot)
        self.conversations.add_slot(slot, replica_id)
        self.cursors[slot] = EventCursor()
        self._count_start(slot)

    def clear_slot(self, slot: int) -> None:
        """Drop all that is known of a slot whose replica left."""
        if self.outbox is not None:
            self.outbox.clear_slot(slot)
        self.backlog.clear_slot(slot)
        self.times.clear_slot(slot)
        self._dropped(self.conversations.clear_slot(slot))
        self.columns.clear_slot(slot)
        self.index.clear_slot(slot)
        self._mirrors.drop(slot)
        self.hit_rates.clear_slot(slot)
        del self.cursors[slot]

    def scraped(self, slot: int, load: EngineLoad, capacity_tokens: int, cached_tokens: int) -> None:
        """Apply what an endpoint's metrics say.

        - `capacity_tokens`: room for KV; 0 where the metrics do not tell it.
        - `cached_tokens`: prompt tokens found cached since the endpoint started.
        """
        self.cursors[slot].load = load
        if capacity_tokens:
            self.columns.set_capacity(slot, capacity_tokens)
            if not self.reports(slot):
                self._mirrors.sized(slot, capacity_tokens)
            self._mirrors.hit(slot, cached_tokens)

    def reports(self, slot: int) -> bool:
        """Whether the engine on a slot reports what it stores."""
        return bool(self.cursors[slot].epoch)

    # A decision

    def read(self, features: RequestFeatures, now_s: float, limit: int = MAX_PROMPT_TOKENS) -> Prompt:
        """Predict a prompt's length, at most `limit` tokens, and how much of it replicas hold."""
        self.backlog.expire(now_s)
        self.index.expectations.expire(now_s)
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
        live, under_way = self.conversations.counts()
        share = under_way / live if live else 0.0
        signals.active_usage = signals.usage * share
        signals.certainty = 1.0 if self._is_silence_known else share
        tokens, resident = self.key_tokens.measure(keys, levels, size, per_byte, known, continues=continues)
        tokens = min(tokens, limit)
        arrived = arrived_tokens(features, known, tokens, per_byte) if features.missing_bytes else tokens
        return Prompt(tokens, levels, resident, known, arrived)

    def place(
        self,
        features: RequestFeatures,
        prompt: Prompt,
        slot: int,
        candidates: Candidates,
        now_s: float,
        *,
        prefill: int = NO_SLOT,
    ) -> Placement:
        """Expect a prompt's keys on the slot a decision sent it to, and its KV in its conversation's footprint.

        prefill: the slot where the prompt is computed, when that is another; keys are expected on both then.
        """
        counters = self.counters
        cached = self.cursors[slot].whole_blocks(prompt.resident.tokens(slot))
        counters.selected_cached_tokens += cached
        best = best_of(prompt.resident, candidates, cached)
        counters.best_cached_tokens += best
        # A sequence that does not fit the replica's KV is refused by its engine.
        tokens = min(prompt.tokens, self.columns.room(slot))
        keys = features.prefix_keys[:MAX_KEYS]
        at = deepest_of(prompt, slot)
        if keys:
            self._expect(slot, keys, at + 1, prompt, now_s)
            if prefill != NO_SLOT:
                self._expect(prefill, keys, deepest_of(prompt, prefill) + 1, prompt, now_s)
        known = self._converse(features, prompt, slot, keys, tokens, min(cached, tokens), now_s)
        return Placement(
            slot,
            features.model,
            features.body_bytes,
            cached,
            max(1, tokens - cached),
            known,
            paired=prefill != NO_SLOT,
            keys=keys,
            at=at,
            turn=0 if known is None else known.stands,
            claimed=0 if prompt.whole else tokens,
            starts_seen=self._starts,
            best=best,
        )

    def _converse(
        self,
        features: RequestFeatures,
        prompt: Prompt,
        slot: int,
        keys: Sequence[int],
        tokens: int,
        resident: int,
        now_s: float,
    ) -> Conversation | None:
        """Note that a conversation goes on at a slot; None for a request that belongs to none."""
        known = prompt.conversation
        if known is not None and known.slot == NO_SLOT:
            known = None  # given up since the prompt was read
        before = known.name if known is not None else None
        if not prompt.whole:
            # Room is saved for what arrived, not for what was announced.
            tokens = known.tokens if known is not None and known.slot == slot else resident
        known = self.conversations.place(
            known,
            features.session,
            slot,
            keys,
            tokens=tokens,
            resident=resident,
            prompt_bytes=features.body_bytes,
            now_s=now_s,
            in_flight=bool(features.request_id),
        )
        if known is not None:
            self.publish_conversation(known, before)
        return known

    def place_prefill(self, features: RequestFeatures, prompt: Prompt, slot: int) -> Placement:
        """Predict the prefill request of a prompt on a slot, where `place` expects its keys."""
        cached, ahead = prompt.resident.tokens(slot), self.columns.cells.waiting[slot]
        uncached = max(1, min(prompt.tokens, self.columns.room(slot)) - cached)
        return Placement(slot, features.model, features.body_bytes, cached, uncached, None, ahead, best=cached)

    def _expect(self, slot: int, keys: Sequence[int], start: int, prompt: Prompt, now_s: float) -> None:
        """Expect a prompt's keys from number `start` on where it is computed."""
        if not self._mirrors.enter(slot, keys, start, prompt):
            self.index.expect(slot, keys, start, now_s + (EXPECTED_S if self.reports(slot) else EXPECTED_UNREPORTED_S))
        if self.outbox is not None and start < len(keys):
            self.outbox.add_expected(slot, keys[start:])

    def unexpect(self, placement: Placement) -> None:
        """End the expectation of the keys of a placement that its replica did not report by now."""
        if placement.slot in self.cursors:  # the replica may have left meanwhile
            self.index.unexpect(placement.slot, placement.keys[placement.at + 1 :])

    # What engines report

    def apply(self, slot: int, events: EngineEvents) -> bool:
        """Apply what an engine reports of its keys and its load; True when the engine must send a snapshot."""
        counters, index = self.counters, self.index
        counters.messages += 1
        feed = self.cursors[slot]
        # A late message of an earlier incarnation does not end this one.
        if events.epoch in feed.past:
            in_step = False
        else:
            if feed.epoch and events.epoch != feed.epoch:
                self.restarted(slot, events.born_ms)
            # A mirror was a guess: from here on the engine reports.
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
        return not in_step

    def stop_reports(self, slot: int) -> None:
        """Drop the keys of an engine whose reports reach this edge no more, though the replica stays.

        From here on the replica is an endpoint that reports nothing, until it sends a snapshot.
        """
        feed = self.cursors[slot]
        if feed.epoch:
            self.index.forget(slot)
            feed.lost()

    def expect(self, slot: int, keys: Sequence[int], now_s: float) -> None:
        """Expect prefix keys of a prompt that another edge sent to a slot."""
        self.index.expect(slot, keys, 0, now_s + (EXPECTED_S if self.reports(slot) else EXPECTED_UNREPORTED_S))

    def publish_conversation(self, known: Conversation, before: Name | None) -> None:
        """Have other edges told that a conversation changed or was dropped.

        before: the name before the change; None for a conversation that began.
        """
        if self.outbox is not None:
            if known.slot != NO_SLOT:
                self.outbox.add_conversation(known, before)
            elif before is not None:
                self.outbox.add_dropped((before,))

    def restarted(self, slot: int, born_ms: int = 0) -> None:
        """Empty the cache and the backlog of a slot whose engine restarted; its prefill times stay.

        born_ms: when this incarnation started, in ms since 1970; 0 where that is unknown.
        """
        self.counters.restarts += 1
        self._mirrors.restarted(slot)
        self.index.forget(slot)
        self._dropped(self.conversations.engine_started(slot, born_ms, restarted=True))
        self.backlog.clear_slot(slot)
        self.hit_rates.clear_slot(slot)
        self.cursors[slot].restarted()
        self._count_start(slot)

    def _count_start(self, slot: int) -> None:
        self._starts += 1
        self.cursors[slot].started = self._starts

    def _dropped(self, names: list[Name]) -> None:
        if self.outbox is not None and names:
            self.outbox.add_dropped(names)

    def expire(self, now_s: float) -> None:
        """End what is overdue; called a few times a second."""
        self.backlog.expire(now_s)
        self.index.expectations.expire(now_s)
        self.conversations.expire(now_s)
        self.hit_rates.expire(now_s)
        self._is_silence_known = self.conversations.silence.is_known
