"""One HTTP request to a vLLM replica, from its first byte to the end of its last prompt in the engine."""

from __future__ import annotations

from typing import NamedTuple

from pointsman.contract.events import RequestUsage
from pointsman.contract.prefix_keys import KeyStream
from pointsman.engine.vllm.replica.generation import Generation


class HandedKeys(NamedTuple):
    """Prefix keys that came with a request."""

    keys: list[int]
    prompt_bytes: int


class Call:
    """One HTTP request."""

    __slots__ = (
        "adapter",
        "arrived_s",
        "completion_tokens",
        "decode_ms",
        "finished",
        "first_s",
        "generations",
        "keys",
        "open",
        "over",
        "prefix_tokens",
        "prompt_tokens",
        "published",
        "reason",
        "reported_first",
        "request_id",
        "scope",
        "tag",
    )  # fmt: skip

    def __init__(self, request_id: str, scope: str, arrived_s: float) -> None:
        self.request_id = request_id
        self.scope = scope
        """The header `x-pointsman-scope`, as the router set it."""
        self.arrived_s = arrived_s
        self.keys: KeyStream | HandedKeys = KeyStream()
        self.tag = ""
        """Names the first prompt in events; empty until the prompt reaches the engine."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.prefix_tokens = -1
        """Tokens above the first block that the engine computed for the request; -1 until there is one."""
        self.reported_first = False
        self.first_s = 0.0
        """Time of the request's first token; 0 before."""
        self.decode_ms = 0.0
        """Time from the request's first token to the last one so far."""
        self.finished = False
        self.reason = ""
        """Why generation ended, in vLLM's words."""
        self.adapter = ""
        self.generations: list[Generation] = []
        """Prompts in the engine, the first one first."""
        self.open = 0
        """Prompts whose outputs have not ended."""
        self.over = False
        """Whether vLLM's app is done with the request."""
        self.published = False
        """Whether routers were told of the request's end."""

    @property
    def is_prefill(self) -> bool:
        """Whether the request computes a prompt for another replica."""
        return isinstance(self.keys, HandedKeys)

    def usage(self, now_s: float, *, handed_over: bool) -> RequestUsage:
        """The tokens spent on the request so far. handed_over: another replica computed the first prompt."""
        computed = self.generations[1:] if handed_over else self.generations
        return RequestUsage(
            self.request_id,
            sum(generation.prompt_tokens for generation in computed),
            sum(generation.cached_tokens for generation in computed),
            0 if self.is_prefill else sum(generation.output_tokens for generation in self.generations),
            0.0 if self.is_prefill else round((now_s - self.arrived_s) * 1000, 3),
            self.adapter,
        )
