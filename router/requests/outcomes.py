"""Outcomes of placements: effects of answers, first tokens and ends of requests on what is known of the fleet's KV.

`Outcomes` writes where predictions come from (conversations, expected keys, prefill times) and owns nothing. Whose
placement it is, and when a request is over for good, is `RequestTable`'s to know.
"""

from __future__ import annotations

from pointsman.contract.events import Finished, FirstToken
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.kv.parts import Placement
from pointsman.router.kv.state import KVState


class Outcomes:
    """The writer of what became of requests."""

    def __init__(self, kv: KVState) -> None:
        self._kv = kv
        self._conversations = kv.conversations

    def answered(self, placement: Placement) -> None:
        """An answer with a status of 2xx began: what the request brought stays."""
        if placement.answered:
            return
        placement.answered = True
        known = placement.conversation
        if known is None:
            return
        if self._conversations.answered(known, placement.turn, placement.claimed):
            self._kv.publish_conversation(known, known.name)

    def first_token(self, placement: Placement, slot: int, first: FirstToken) -> None:
        """The engine on a slot reported the first token; nothing where the request was placed on another."""
        if placement.slot != slot:
            return
        self.answered(placement)
        if not first.prompt_tokens:
            return
        self._kv.lessons.first_token(placement, first)
        self._learn_lengths(placement, first.prompt_tokens, 0)

    def finished(self, placement: Placement, slot: int, finished: Finished, now_s: float) -> None:
        """The engine on a slot reported the end."""
        if finished.completion_tokens:
            self.answered(placement)
        if placement.slot == slot:
            # What it did not store by now it never will, or it is gone again.
            self._kv.unexpect(placement)
            if finished.prompt_tokens:
                self._learn_lengths(placement, finished.prompt_tokens, finished.completion_tokens)
        self.over(placement, now_s)

    def ended(self, placement: Placement, now_s: float, *, served_by: int, served: bool) -> None:
        """HAProxy saw the end of the request.

        served_by: the slot it really went to where that is known, else NO_SLOT.
        served: whether an answer with a status of 2xx began.
        """
        if served:
            self.answered(placement)
            if placement.conversation is not None and served_by not in (NO_SLOT, placement.slot):
                # Of an earlier incarnation, which may have answered, nothing is kept.
                lost = self._kv.cursors[served_by].started > placement.starts_seen
                self._conversations.served_by(placement.conversation, placement.turn, served_by, lost=lost)
        else:
            # What nobody computed is nowhere resident, unless a replica says so.
            self._kv.unexpect(placement)
        self.over(placement, now_s)

    def over(self, placement: Placement, now_s: float) -> None:
        """The request is no longer active, as HAProxy or an engine reported first."""
        known = placement.conversation
        if placement.active and known is not None and known.slot != NO_SLOT:
            before = known.name
            self._conversations.ended(known, now_s, placement.turn, served=placement.answered)
            self._kv.publish_conversation(known, before)
        placement.active = False

    def _learn_lengths(self, placement: Placement, prompt_tokens: int, completion_tokens: int) -> None:
        known = placement.conversation
        if known is not None and known.slot != NO_SLOT:
            self._conversations.told(known, placement.slot, placement.prompt_bytes, prompt_tokens, completion_tokens)
            self._kv.publish_conversation(known, known.name)
