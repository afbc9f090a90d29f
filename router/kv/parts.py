"""Parts of `KVState` besides its tables: one prompt, one placement, its counters, the most a candidate holds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pointsman.policies.candidates import Candidates, Residency, names
from pointsman.policies.request import RequestFeatures
from pointsman.router.counts.histogram import Histogram
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.prefix_index import Level

MAX_PROMPT_TOKENS = 2**20
"""A prompt counts as at most so many tokens where neither the model's card nor the replica's KV says less: the longest
context in common use."""

ERROR_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Prompt(msgspec.Struct, gc=False):
    """One request's prompt as the fleet's KV sees it."""

    tokens: int
    """Predicted length, at least 1."""
    levels: Sequence[Level]
    """As the index found them: (index of the deepest key, slots)."""
    resident: Residency
    conversation: Conversation | None
    arrived: int
    """The part of `tokens` that other requests have to reckon with. Less than `tokens` where most of the body is only
    announced, and its conversation was never answered for a prompt as long as that."""

    @property
    def whole(self) -> bool:
        """Whether the prompt arrived, for all that counts."""
        return self.arrived >= self.tokens


class Placement(msgspec.Struct, gc=False):
    """Prediction of a decision about a prompt, until the engine reports how it was."""

    slot: int
    model: str
    prompt_bytes: int
    cached: int
    uncached: int
    conversation: Conversation | None
    ahead: float = 0.0
    """Tokens in front of the prompt when it was placed."""
    paired: bool = False
    """Another replica prefills: what this one reports of its first token teaches nothing of its own prefill."""
    keys: Sequence[int] = ()
    at: int = -1
    """Number of the deepest key that was resident, or expected to be; -1 for none."""
    turn: int = 0
    """Turn of the conversation."""
    claimed: int = 0
    """Tokens of a prompt that was only announced, which count once it is answered; 0 for one that was whole."""
    active: bool = True
    """Neither HAProxy nor an engine reported its end."""
    answered: bool = False
    """An answer with a status of 2xx began."""
    starts_seen: int = 0
    """Starts of engines that this edge had seen when the prompt was placed."""
    best: int = 0
    """Cached tokens predicted for the candidate that holds most, at least `cached`."""


class KVCounters:
    """Counters that metrics read."""

    def __init__(self) -> None:
        self.messages = 0
        self.keys = 0
        """Prefix keys that engines reported as stored or evicted."""
        self.resyncs = 0
        """Messages answered with the request for a snapshot."""
        self.restarts = 0
        """Engines that came back under another epoch."""
        self.prediction_error = Histogram(ERROR_BOUNDS)
        """|predicted - actual| cached tokens over prompt tokens."""
        self.best_cached_tokens = 0
        """Tokens that the best candidate of each decision was predicted to hold."""
        self.selected_cached_tokens = 0
        """Tokens that the chosen replica of each decision was predicted to hold."""


def arrived_tokens(features: RequestFeatures, known: Conversation | None, tokens: int, per_byte: float) -> int:
    """The part of a prompt of so many tokens that others have to reckon with, while HAProxy has a part of its body.

    A conversation that was answered is believed that its next prompt is as long as its last one.
    """
    proven = known.prompt_bytes if known is not None and known.answered else 0
    missing = features.missing_bytes - proven
    if missing <= 0:
        return tokens
    return max(1, min(tokens, int((features.body_bytes - missing) * per_byte)))


def best_of(resident: Residency, candidates: Candidates, best: int) -> int:
    """Return the most tokens that a candidate holds, where one is known to hold `best`."""
    for tokens, slots in resident.levels:
        if tokens > best and any(slot in candidates for slot in slots):
            best = tokens
    return best


def deepest_of(prompt: Prompt, slot: int) -> int:
    """Return the number of the deepest key of a prompt that a slot holds, or is expected to; -1 for none."""
    for at, slots in prompt.levels:
        if names(slots, slot):
            return at
    return -1
