"""The record of one request: where it is reserved, where its prompt waits, and what was predicted of it.

A request is reserved on one slot with its tokens, and may have a prefill request on another, where its prompt is
computed. Its prompt waits in the backlog of the slot that computes it. The record gives back what it has: reservations
to the load, prompts to the backlog. Which requests there are, and when they end, is `RequestTable`'s to know.
"""

from __future__ import annotations

import msgspec

from pointsman.contract.events import FirstToken
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.counts.models import ModelRow
from pointsman.router.fleet.load import LoadTable
from pointsman.router.kv.parts import Placement, Prompt
from pointsman.router.kv.prefill_backlog import PrefillBacklog, WaitingPrompt
from pointsman.router.kv.state import KVState
from pointsman.router.requests.end_line import Line
from pointsman.router.tenancy.usage import UsageRow


class PrefillRequest(msgspec.Struct, gc=False):
    """The part of a request that computes its prompt on another replica."""

    slot: int = NO_SLOT
    """Slot that the prefill request is reserved on; NO_SLOT once the prompt is computed."""
    tokens: int = 0
    placement: Placement | None = None
    """Prediction of the request under policies with KV signals, until its engine reports the end."""
    waiting: WaitingPrompt | None = None
    first_token: FirstToken | None = None
    """First token as the engine reported it."""

    def release(self, load: LoadTable) -> None:
        """Ends the reservation."""
        if self.slot != NO_SLOT:
            load.remove(self.slot, self.tokens)
            self.slot = NO_SLOT

    def prompt_computed(self, load: LoadTable, backlog: PrefillBacklog) -> None:
        """Ends the reservation and the wait of the prompt, which was computed or is not wanted any more."""
        self.release(load)
        if self.waiting is not None:
            backlog.release(self.waiting)
            self.waiting = None


class Request(msgspec.Struct, gc=False):
    """One request in flight, or ended just now."""

    id: str
    made_s: float
    slot: int
    """Slot that the request is reserved on; NO_SLOT once the reservation is over."""
    tokens: int
    announced: int = 0
    """Tokens of its prompt that were announced and count once it is computed."""
    features: RequestFeatures | None = None
    """Features that the decision saw, to count the request by model and tenant; None for one made by hand."""
    held_s: float = 0.0
    """Seconds for which it was held at the edge before it was placed."""
    row: ModelRow | None = None
    """Counts of its model and tenant; None before anything was counted there."""
    placement: Placement | None = None
    """Prediction of the request under policies with KV signals, until its engine reports the end."""
    waiting: WaitingPrompt | None = None
    prefill: PrefillRequest | None = None
    batch_prompt: bool = False
    """Whether the request is of the batch class, and its prompt is not computed yet."""
    ended: bool = False
    """HAProxy reported its end."""
    line: Line | None = None
    """The line that did."""
    first_token: FirstToken | None = None
    """First token as the engine reported it last."""
    usage_row: UsageRow | None = None
    """Row of the ledger that counts it; None before anything was counted there."""
    counted: bool = False
    """Whether nothing about its usage is waited for: neither a line nor a report."""
    output_tokens: int = 0
    """As an engine said at the end that reports no usage."""
    used_slot: int = NO_SLOT
    """Slot of the replica whose engine reported its usage last; NO_SLOT before."""
    finished: bool = False
    """The engine reported the end."""

    @property
    def awaits_report(self) -> bool:
        """Return whether an engine has still to report the end of the request or of its prefill request."""
        return self.placement is not None or (self.prefill is not None and self.prefill.placement is not None)

    def release(self, load: LoadTable) -> int:
        """Ends the reservations of the request and its prefill request; 1 if the request had one, else 0."""
        if self.prefill is not None:
            self.prefill.release(load)
        self.announced = 0
        if self.slot == NO_SLOT:
            return 0
        load.remove(self.slot, self.tokens)
        self._batch_ended(load)
        self.slot = NO_SLOT
        return 1

    def batch_began(self, load: LoadTable) -> None:
        """Counts a request of the batch class on its slot, and its prompt until that is computed."""
        load.batch[self.slot] += 1
        load.batch_prompts[self.slot] += 1
        self.batch_prompt = True

    def _batch_ended(self, load: LoadTable) -> None:
        """Ends what `batch_began` counted."""
        features = self.features
        if features is not None and features.priority == BATCH:
            load.batch[self.slot] -= 1
            self._batch_prompt_computed(load)

    def _batch_prompt_computed(self, load: LoadTable) -> None:
        if self.batch_prompt:
            load.batch_prompts[self.slot] -= 1
            self.batch_prompt = False

    def move(self, load: LoadTable, slot: int) -> None:
        """Has the reservation, while it lasts, on the slot that turned out to serve the request."""
        if self.slot in (NO_SLOT, slot):
            return
        load.add(slot, self.tokens)
        load.remove(self.slot, self.tokens)
        features = self.features
        if features is not None and features.priority == BATCH:
            load.batch[slot] += 1
            load.batch[self.slot] -= 1
            load.batch_prompts[slot] += self.batch_prompt
            load.batch_prompts[self.slot] -= self.batch_prompt
        self.slot = slot

    def prompt_computed(self, load: LoadTable, backlog: PrefillBacklog, first_s: float = -1.0) -> bool:
        """Ends the wait of the prompt; True if the prompt still waited at the request's own replica.

        first_s: when the first token came; negative where the prompt is not wanted any more.
        """
        if self.prefill is not None:
            self.prefill.prompt_computed(load, backlog)
        self._batch_prompt_computed(load)
        if self.announced:
            self.tokens += self.announced
            load.add_tokens(self.slot, self.announced)
            self.announced = 0
        waiting = self.waiting
        if waiting is None:
            return False
        self.waiting = None
        return backlog.release(waiting, first_s=first_s)


def queue_prompt(kv: KVState, placement: Placement, prompt: Prompt, now_s: float) -> WaitingPrompt:
    """Put a prompt into the backlog of the slot that computes it, as far as the prompt arrived."""
    slot = placement.slot
    tokens = placement.uncached if prompt.whole else min(placement.uncached, prompt.arrived)
    # An announced prompt may never arrive, so its first token is given no grace.
    return kv.backlog.add(slot, tokens, now_s, reports=kv.reports(slot) and prompt.whole)
