"""The part of a vLLM replica in handoffs: having prompts computed by another replica, or computing them for others.

`Handoff` sees a request twice. As bytes (`app`): transfer parameters from clients are refused, and the prefill replica
that HAProxy names is noted. As tokens (`watch`): on a decode replica the prefill request (engine/disaggregation.py)
runs before the engine gets the prompt, with the transfer parameters of its answer. A context variable ties the two.

One request hands one prompt over: its first. A request that computes several (a list of prompts, the turns of a tool
loop) computes the others here, where their common head lies by then.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import msgspec

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import SCOPE_HEADER, prefix_keys, prompt_start, scoped
from pointsman.contract.priority import PRIORITY_HEADER
from pointsman.contract.registration import Role
from pointsman.contract.scope import request_scope
from pointsman.engine.disaggregation import (
    PARAMS,
    PREFILL_HEADER,
    PREFILL_KEYS_HEADER,
    REFUSAL,
    TIMEOUT_S,
    HandoffOutcome,
    Peer,
    Prefiller,
    PrefillRequest,
    carries_transfer_params,
    pack_prefix,
    parse_peer,
)
from pointsman.engine.vllm.replica.bodies import REFUSED, replayed, take_whole
from pointsman.engine.vllm.replica.gate import READING_METHODS, App, Receive, Scope, Send, answer_error
from pointsman.engine.vllm.replica.signals import Generate


class _Call:
    """One HTTP request."""

    __slots__ = (
        "authorization",
        "handed_over",
        "is_prefill",
        "keys",
        "peer",
        "priority",
        "prompt_bytes",
        "request_id",
        "scope",
        "taken",
    )

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        found = dict(headers)
        self.is_prefill = PREFILL_KEYS_HEADER.encode() in found
        self.request_id = found.get(b"x-request-id", b"").decode("latin-1")
        self.authorization = found.get(b"authorization", b"").decode("latin-1")
        named = found.get(PREFILL_HEADER.encode())
        self.peer: Peer | None = None
        self.keys: Sequence[int] = ()
        """Prefix keys of the body, where its prompt may be handed over; not scoped."""
        self.prompt_bytes = 0
        self.scope = found.get(SCOPE_HEADER.encode(), b"").decode("latin-1")
        """The header `x-pointsman-scope`, as the router set it."""
        self.priority = found.get(PRIORITY_HEADER.encode(), b"").decode("latin-1")
        self.taken = False
        """Whether the one prompt that the request may hand over was taken for that."""
        self.handed_over = False
        """Whether a prefill replica computed the prompt that was taken."""
        if named is not None:
            self.peer = parse_peer(named.decode("latin-1"))
            self.keys = prefix_keys(body)
            self.prompt_bytes = len(body) - max(0, prompt_start(body))


_call: ContextVar[_Call | None] = ContextVar("pointsman_handoff", default=None)


def current_handed_over() -> bool:
    """Whether a prefill replica computed the first prompt of the request of the current context."""
    call = _call.get()
    return call is not None and call.handed_over


class Handoff:
    """The handoffs of one replica. Wrap its app and its `generate`; `close` at its end."""

    def __init__(
        self, role: Role, model: str, *, timeout_s: float = TIMEOUT_S, lost: Callable[[], int] = lambda: 0
    ) -> None:
        """`model`: as all replicas of the model serve it. `lost`: transfers that failed in the engine so far."""
        self._model = model
        self._lost = lost
        self._prefiller = Prefiller(timeout_s) if role is Role.DECODE else None

    def totals(self) -> Handoffs | None:
        """Totals of handoffs; None unless this is a decode replica."""
        if self._prefiller is None:
            return None
        return msgspec.structs.replace(self._prefiller.totals(), lost=self._lost())

    async def close(self) -> None:
        """Connections to prefill replicas end."""
        if self._prefiller is not None:
            await self._prefiller.close()

    def app(self, app: App) -> App:
        """An ASGI application around vLLM's."""

        async def judged(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] in READING_METHODS:
                await app(scope, receive, send)
                return
            taken = await take_whole(receive, send)
            if taken is None:
                return
            messages, body = taken
            call = _Call(scope["headers"], body)
            if not call.is_prefill and carries_transfer_params(body):
                await answer_error(send, 400, REFUSED, REFUSAL, PARAMS)
                return
            _call.set(call)
            await app(scope, replayed(messages, receive), send)

        return judged

    def watch(self, generate: Generate) -> Generate:
        """`generate` of vLLM's `AsyncLLM`, given prompts that may have been computed elsewhere.

        Raises ValueError, which vLLM answers with 400, for transfer parameters that came in unseen.
        """

        def watched(prompt: Any, sampling_params: Any, request_id: str, **options: Any) -> AsyncIterator[Any]:
            call = _call.get()
            if (sampling_params.extra_args or {}).get(PARAMS) is not None and (call is None or not call.is_prefill):
                raise ValueError(REFUSAL)
            if self._prefiller is None or call is None or call.peer is None or call.taken:
                return generate(prompt, sampling_params, request_id, **options)
            call.taken = True
            prefill = self._prefill_request(call, prompt, sampling_params, options)
            if prefill is None:
                self._prefiller.count(HandoffOutcome.UNSUITABLE)
                return generate(prompt, sampling_params, request_id, **options)

            def decode(params: dict[str, Any] | None) -> AsyncIterator[Any]:
                given = sampling_params
                if params is not None:
                    call.handed_over = True
                    given = copy.copy(sampling_params)
                    given.extra_args = {**(given.extra_args or {}), PARAMS: params}
                return generate(prompt, given, request_id, **options)

            return _handed_over(self._prefiller, call.peer, prefill, decode)

        return watched

    def _prefill_request(
        self, call: _Call, prompt: Any, sampling_params: Any, options: dict[str, Any]
    ) -> PrefillRequest | None:
        """None where the KV of this prompt cannot be handed over, or would be fetched more than once."""
        if not isinstance(prompt, dict) or prompt.get("type") != "token" or not prompt.get("prompt_token_ids"):
            return None  # images and embeddings, which a completion of tokens does not carry
        if (sampling_params.n or 1) > 1 or sampling_params.prompt_logprobs is not None:
            return None
        adapter = options.get("lora_request")
        model, salt = self._model if adapter is None else adapter.lora_name, prompt.get("cache_salt") or ""
        scope, _ = request_scope(call.scope, model, salt)
        return PrefillRequest(
            request_id=call.request_id,
            model=model,
            prompt_token_ids=prompt["prompt_token_ids"],
            cache_salt=salt,
            authorization=call.authorization,
            prefix=pack_prefix(scoped(call.keys, scope), call.prompt_bytes),
            priority=call.priority,
        )


async def _handed_over(
    prefiller: Prefiller,
    peer: Peer,
    prefill: PrefillRequest,
    decode: Callable[[dict[str, Any] | None], AsyncIterator[Any]],
) -> AsyncIterator[Any]:
    params = await prefiller.handoff(peer, prefill)
    # Closed explicitly: vLLM aborts the request in the engine when its generator is closed.
    async with aclosing(decode(params)) as outputs:  # type: ignore[type-var]
        async for output in outputs:
            yield output
