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
    RANDOM = "random"
    LEAST_LOAD = "least-load"
    POWER_OF_TWO = "power-of-two"
    HASH = "hash"
    HASH_SPILL = "hash-spill"
    """The ring's first choice was over its load bound; the next on the ring within it serves."""
    SESSION_PIN = "session-pin"
    SESSION_MOVED_OVERLOAD = "session-moved-overload"
    SESSION_MOVED_GONE = "session-moved-gone"
    PREFIX_MATCH = "prefix-match"
    """It holds the longest part of the prompt among those that have room."""
    KV_HOME = "kv-home"
    """The conversation's home costs least."""
    KV_PREFIX = "kv-prefix"
    """It holds a part of the prompt and costs least."""
    KV_COLD = "kv-cold"
    """It holds nothing of the prompt and still costs least."""
    KV_MOVED = "kv-moved"
    """The conversation's home costs more than this one."""
    LORA_LOADED = "lora-loaded"
    """It has the adapter loaded, or is loading it."""
    LORA_ROOM = "lora-room"
    """It has to load the adapter, and drops none for it."""
    LORA_SWAP = "lora-swap"
    """It has to drop an adapter for this one."""
    WEIGHTED = "weighted"
    ADMISSION = "admission"
    """Refused, at once or after its wait: the fleet's KV is full of live conversations, and this would be one more."""
    NO_CANDIDATES = "no-candidates"
    """No replica of that model is healthy and not draining. Refused where replicas of other models are; else HAProxy
    chooses, and the replica's own answer stands."""
    UNKNOWN_MODEL = "unknown-model"
    """Refused: nobody serves a model or adapter of that name."""
    NO_MODEL = "no-model"
    """Refused: several models are served, and nothing tells which one the request wants: its body does not name it, or
    not in the part that can be looked at."""
    FAIL_OPEN = "fail-open"
    """Set by HAProxy alone: the router gave no answer in time."""
    CUSTOM = "custom"
    """For policies from outside this project, which cannot add a word; the policy's name beside it says the rest."""


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One place in a ranking. Lower score is better; its unit is the policy's own."""

    slot: int
    reason: Reason
    score: float = 0.0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to one lookup: replica ids, best first, and why. No `first` means no opinion."""

    reason: Reason
    first: str = ""
    second: str = ""
    status: int = 0
    """HTTP status that HAProxy answers itself: 400, 404, 429 or 503; 0 routes the request."""
    retry_after_s: int = 0
    model: str = ""
    """With 404: the name that no replica serves."""
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
    """Longest silence of the replica, before its answer and within it; 0: as HAProxy's configuration says."""
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
        return values


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A policy's answer to a request that should not be served at this moment."""

    reason: Reason
    status: int = 429
    retry_after_s: int = 1
    wait_s: float = 0.0
    """Seconds that HAProxy may hold the request while the policy is asked again and again; 0: refused at once."""
