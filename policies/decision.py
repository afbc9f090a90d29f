"""The answer to one lookup, and why: what policies return and what the router makes of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why a replica was chosen, or none was.

    The same word is metric label, SPOE variable, header, log field and explain output.
    """

    # A reason is a key on every request; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    ROUND_ROBIN = "round-robin"
    """The replica is next in turn."""
    RANDOM = "random"
    """The replica was drawn at random."""
    LEAST_LOAD = "least-load"
    """The replica has the least load."""
    POWER_OF_TWO = "power-of-two"
    """The replica has less load than the other of two drawn at random."""
    HASH = "hash"
    """The replica owns the session's hash on the ring."""
    HASH_SPILL = "hash-spill"
    """The owner of the session's hash is over its load bound; the replica is the next on the ring within the bound."""
    SESSION_PIN = "session-pin"
    """The session is pinned to the replica."""
    SESSION_MOVED_OVERLOAD = "session-moved-overload"
    """The replica that the session was pinned to is overloaded; the session moves to this one."""
    SESSION_MOVED_GONE = "session-moved-gone"
    """The replica that the session was pinned to left, drains or is down; the session moves to this one."""
    SESSION_MOVED_ORDER = "session-moved-order"
    """An operator moved the session to the replica."""
    PREFIX_MATCH = "prefix-match"
    """The replica has the longest part of the prompt cached among the replicas that have room."""
    KV_HOME = "kv-home"
    """The replica is the conversation's home and has the least cost."""
    KV_PREFIX = "kv-prefix"
    """The replica has a part of the prompt cached and the least cost; the conversation has no home."""
    KV_COLD = "kv-cold"
    """The replica has nothing of the prompt cached and still the least cost; the conversation has no home."""
    KV_MOVED = "kv-moved"
    """The replica has the least cost; the conversation's home costs more."""
    LORA_LOADED = "lora-loaded"
    """The replica has the LoRA adapter loaded, or is loading it."""
    LORA_ROOM = "lora-room"
    """The replica has to load the LoRA adapter and has a free slot for it."""
    LORA_SWAP = "lora-swap"
    """The replica has to load the LoRA adapter and drops another one for it."""
    WEIGHTED = "weighted"
    """The replica has the best weighted sum of scores."""
    BATCH_GATHERED = "batch-gathered"
    """The replica has batch requests, and room for one more: a batch gathers on few replicas."""
    ADMISSION = "admission"
    """Refused, at once or after waiting: the replicas of the model are saturated, as the policy's `admission` says."""
    LIMIT = "limit"
    """Refused: the tenant or the API key is over one of its limits."""
    MODEL_FORBIDDEN = "model-forbidden"
    """Refused: the API key may not ask for the model."""
    NO_CANDIDATES = "no-candidates"
    """No replica of the model is healthy and not draining. Refused where other models have eligible replicas; else
    HAProxy chooses, and the replica's own answer reaches the client."""
    UNKNOWN_MODEL = "unknown-model"
    """Refused: no replica serves a model or adapter of that name."""
    NO_MODEL = "no-model"
    """Refused: several models are served and the request names none. The `model` field is missing, or lies beyond the
    part of the body that HAProxy inspects."""
    FAIL_OPEN = "fail-open"
    """HAProxy chose the replica because the router gave no answer in time."""
    CUSTOM = "custom"
    """A policy from outside Pointsman chose the replica; the policy's name stands beside the reason."""


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One place in a ranking. Lower score is better; its unit is the policy's own."""

    slot: int
    reason: Reason
    score: float = 0.0


def put_first(ranked: list[Ranked], slot: int, reason: Reason) -> list[Ranked]:
    """Return a ranking with another slot first, for a reason that is not the policy's; as long as it was, or two."""
    score = next((place.score for place in ranked if place.slot == slot), 0.0)
    others = [place for place in ranked if place.slot != slot]
    return [Ranked(slot, reason, score), *others][: max(2, len(ranked))]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to one lookup: replica ids, best first, and why. No `first` means no opinion."""

    reason: Reason
    first: str = ""
    """Id of the best replica; empty when there is no decision."""
    second: str = ""
    """Id of the replica to use when `first` is down or refuses the connection; empty when there is none."""
    status: int = 0
    """HTTP status that HAProxy answers itself: 400, 403, 404, 429 or 503; 0 routes the request."""
    retry_after_s: int = 0
    """Seconds for the header `Retry-After`, with `status`; 0: no header."""
    model: str = ""
    """With 404: the name that no replica serves; with 403: the one that the API key may not ask for."""
    real_model: str = ""
    """Model by which `first` and `second` know what the request asks for by an alias, which HAProxy names to them;
    empty for a request that names its model."""
    priority: str = ""
    """Priority class of the request, which HAProxy names to the replica; empty for `normal`."""
    limit: str = ""
    """With 429: the limit that the request is over, and whose it is; empty where there is no room."""
    prefill: str = ""
    """Id of the replica that computes the prompt for `first`; empty where `first` does so itself."""
    prefill_address: str = ""
    """host:port of `prefill`, which HAProxy names to `first`."""
    pairing: str = ""
    """Why there is a `prefill` or none (`pointsman.policies.lib.pair.Pairing`); empty where `first` is no decode
    replica."""
    scope: str = ""
    """Scope of the request's prefix keys, which HAProxy names to the replica."""
    once: bool = False
    """True when the retry budget is used up: HAProxy must not send the request a second time."""
    silence_ms: int = 0
    """Idle timeout of the replica for this request, in milliseconds; 0: HAProxy's own `timeouts.server_s`."""
    hold_ms: int = 0
    """With 429: how long HAProxy may hold the request until there is room, instead of refusing it."""

    def variables(self) -> dict[str, str | int]:
        """The answer as the variables that HAProxy's rules read; what is not set is absent."""
        values: dict[str, str | int] = {"reason": self.reason}
        if self.first:
            values["first"] = self.first
        if self.second:
            values["second"] = self.second
        if self.prefill_address:
            values["prefill"] = self.prefill_address
        if self.real_model:
            values["real_model"] = self.real_model
        if self.priority:
            values["class"] = self.priority
        if self.scope:
            values["scope"] = self.scope
        if self.status:
            values["status"] = self.status
            values["retry_after"] = self.retry_after_s
        if self.hold_ms:
            values["hold"] = self.hold_ms
        if self.once:
            values["once"] = 1
        if self.silence_ms:
            values["silence"] = self.silence_ms
        if self.model:
            values["model"] = self.model
        if self.limit:
            values["limit"] = self.limit
        return values


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A policy's refusal of a request that should not be served at this moment."""

    reason: Reason
    status: int = 429
    retry_after_s: int = 1
    wait_s: float = 0.0
    """Seconds that HAProxy may hold the request while the policy is asked again and again; 0: refused at once."""
