"""The reports of a vLLM replica to routers: prefix keys from the bodies it serves, first tokens, ends, load.

`Reporter` meets a request three times: as bytes on their way into vLLM's app (`app`: its decision id, and prefix keys
made of the bytes as they pass, none of which is kept), as tokens on their way into the engine (`watch`), and in the
engine's KV events. What ties them together is a context variable between the first two, and between the last two the
session id, which vLLM repeats in the events of the blocks a request computes and uses for nothing else.

Of a request with several prompts or choices the first one counts; its usage is that of all.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from pointsman.contract.events import EngineLoad, Finished, FirstToken, Handoffs
from pointsman.contract.prefix_keys import SCOPE_HEADER, KeyStream, scoped
from pointsman.contract.scope import request_scope, tenant_salt
from pointsman.engine.attribution import Attribution, KeyDepths
from pointsman.engine.disaggregation import PREFILL_KEYS_HEADER, unpack_prefix
from pointsman.engine.publisher import EngineFacts, EngineReadings, Publisher
from pointsman.engine.transport import Transport
from pointsman.engine.vllm.replica.call import Call, HandedKeys
from pointsman.engine.vllm.replica.gate import READING_METHODS, App, Message, Receive, Scope, Send
from pointsman.engine.vllm.replica.generation import Generation
from pointsman.engine.vllm.replica.kv_events import (
    DEVICE,
    WHOLE_PREFIX,
    BlockRemoved,
    BlockStored,
    Event,
    KVEventStream,
    PrefixCache,
)
from pointsman.engine.vllm.replica.signals import Generate

log = logging.getLogger("pointsman.vllm.reporting")

REQUEST_ID = b"x-request-id"
"""The decision id, made by the edge."""

PREFILL = PREFILL_KEYS_HEADER.encode()
SCOPE = SCOPE_HEADER.encode()

LINGER_S = 2.0
"""Seconds after a request's end in which its last events still arrive: they travel apart from the answer."""


_call: ContextVar[Call | None] = ContextVar("pointsman_call", default=None)


class Reporter:
    """One engine's reports. Wrap its app and its `generate`; `start` once the engine runs, `stop` at its end."""

    def __init__(
        self,
        transports: Sequence[Transport],
        *,
        model: str,
        load: Callable[[], EngineLoad],
        handoffs: Callable[[], Handoffs | None] = lambda: None,
        adapters: Callable[[], list[str] | None] = lambda: None,
        adapter_slots: int = 0,
        reach: Callable[[str], Transport] | None = None,
        handed_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """`model` is the served name, by which requests ask for no adapter; `adapters` are those in the engine's
        `adapter_slots`; `reach` makes a transport to another edge's admin URL; `handed_over` says of the request of the
        current context whether a prefill replica computed its prompt."""
        self.attribution = Attribution()
        self._transports = transports
        self._model = model
        self._load = load
        self._handoffs = handoffs
        self._adapters = adapters
        self._adapter_slots = adapter_slots
        self._reach = reach
        self._depths = KeyDepths()
        self._block_size = 1
        self._group: int | None = None
        """The group of layers whose blocks are followed, where a model has several: the first that keeps whole
        prefixes."""
        self._calls: dict[str, Call] = {}
        """By tag, requests whose first token the engine's outputs show too late."""
        self._handed_over = handed_over
        self._generations: dict[str, Generation] = {}
        """Prompts in the engine, by the id that vLLM's app gave them."""
        self._streams: list[KVEventStream] = []
        self._publisher: Publisher | None = None
        self._last_tag = 0

    def start(self, cache: PrefixCache) -> None:
        """Follow the events of the running engine and publish to the routers."""
        self._block_size = cache.block_size
        self._publisher = Publisher(
            self._transports,
            EngineFacts(
                epoch=uuid.uuid4().hex,
                born_ms=int(time.time() * 1000),
                capacity_tokens=cache.capacity_tokens,
                block_tokens=cache.block_size,
                adapter_slots=self._adapter_slots,
            ),
            EngineReadings(
                resident=self.attribution.resident,
                depths=self.attribution.depths,
                load=self._load,
                handoffs=self._handoffs,
                adapters=self._adapters,
            ),
            reach=self._reach,
        )
        self._streams = [KVEventStream(source, self.apply, self._lost) for source in cache.sources]
        for stream in self._streams:
            stream.open()
        self._publisher.start()

    async def stop(self) -> None:
        """Publish what waits and close."""
        for stream in self._streams:
            stream.close()
        if self._publisher is not None:
            await self._publisher.stop()

    # A request, as bytes

    def app(self, app: App) -> App:
        """An ASGI application around vLLM's."""

        async def reported(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] in READING_METHODS:
                await app(scope, receive, send)
                return
            request_id = said = handed = b""
            for name, value in scope["headers"]:
                if name == REQUEST_ID:
                    request_id = value
                elif name == SCOPE:
                    said = value
                elif name == PREFILL:
                    handed = value
            call = Call(request_id.decode("latin-1"), said.decode("latin-1"), time.monotonic())
            stream = call.keys
            assert isinstance(stream, KeyStream)
            if handed:
                # Of a prefill request: its own body has tokens where the one that the router sees has text.
                call.keys = HandedKeys(*unpack_prefix(handed.decode("latin-1")))
                feed: Callable[[bytes], None] = _pass_over
            else:
                feed = stream.feed

            async def receive_and_digest() -> Message:
                message = await receive()
                if piece := message.get("body"):
                    feed(piece)
                return message

            _call.set(call)
            try:
                await app(scope, receive_and_digest, send)
            finally:
                self._ended(call)

        return reported

    # A request, as tokens

    def watch(self, generate: Generate) -> Generate:
        """vLLM's `generate` with its requests reported."""

        def watched(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            call = _call.get()
            if call is None:
                return generate(*args, **kwargs)
            deltas = args[1].output_kind.name == "DELTA"
            generation = Generation(deltas=deltas)
            call.generations.append(generation)
            if call.tag:
                return self._counted(call, args[2], generation, generate(*args, **kwargs))
            adapter = kwargs.get("lora_request")
            call.adapter = "" if adapter is None else adapter.lora_name
            self._last_tag += 1
            call.tag = kwargs["session_id"] = str(self._last_tag)
            prompt, sampling = args[:2]
            call.prompt_tokens = _prompt_tokens(prompt)
            scope, tenant = self._scope(call, prompt, adapter)
            if tenant:
                prompt["cache_salt"] = tenant_salt(tenant, prompt.get("cache_salt") or "")
            if call.keys.keys and call.prompt_tokens:
                keys = call.keys.keys if isinstance(call.keys, HandedKeys) else scoped(call.keys.keys, scope)
                depths = self._depths.blocks(keys, call.keys.prompt_bytes, call.prompt_tokens, self._block_size)
                self.attribution.begin(call.tag, keys, depths)
            if sampling.output_kind.name == "FINAL_ONLY":
                self._calls[call.tag] = call
            counted = self._counted(call, args[2], generation, generate(*args, **kwargs))
            return self._outputs(call, counted, deltas=deltas)

        return watched

    def _scope(self, call: Call, prompt: Any, adapter: Any) -> tuple[int, str]:
        """The scope of the request's keys, and the tenant that alone may reuse its KV."""
        given = prompt if isinstance(prompt, dict) else {}
        scope, tenant = request_scope(
            call.scope, self._model if adapter is None else adapter.lora_name, given.get("cache_salt") or ""
        )
        return scope, tenant if isinstance(prompt, dict) else ""

    async def _counted(
        self, call: Call, request_id: str, generation: Generation, outputs: AsyncIterator[Any]
    ) -> AsyncIterator[Any]:
        self._generations[request_id] = generation
        call.open += 1
        try:
            # Closed explicitly: vLLM aborts the request in the engine when its generator is closed.
            async with aclosing(outputs) as outputs:  # type: ignore[type-var]
                async for output in outputs:
                    generation.output(output)
                    yield output
        finally:
            del self._generations[request_id]
            call.open -= 1
            if call.over and not call.open:
                self._publish_end(call)

    def aborted(self, request_id: str, index: int, prompt_tokens: int, cached_tokens: int, tokens: int) -> None:
        """An answer was aborted in the engine: `tokens` of it are computed."""
        generation = self._generations.get(request_id)
        if generation is not None:
            generation.aborted(index, prompt_tokens, cached_tokens, tokens)

    async def _outputs(self, call: Call, outputs: AsyncIterator[Any], *, deltas: bool) -> AsyncIterator[Any]:
        try:
            async with aclosing(outputs) as outputs:  # type: ignore[type-var]
                async for output in outputs:
                    if not call.reported_first:
                        call.prompt_tokens = len(output.prompt_token_ids or ())
                        self._first_token(call, output.num_cached_tokens or 0)
                    tokens = len(output.outputs[0].token_ids) if output.outputs else 0
                    call.completion_tokens = call.completion_tokens + tokens if deltas else tokens
                    call.decode_ms = (time.monotonic() - call.first_s) * 1000
                    if output.finished:
                        call.finished = True
                        call.reason = (output.outputs[0].finish_reason or "") if output.outputs else ""
                    yield output
        finally:
            self._calls.pop(call.tag, None)

    def _first_token(self, call: Call, cached_tokens: int) -> None:
        call.reported_first = True
        call.first_s = time.monotonic()
        if call.request_id and self._publisher is not None:
            ttft_ms = (time.monotonic() - call.arrived_s) * 1000
            self._publisher.first_token(FirstToken(call.request_id, call.prompt_tokens, cached_tokens, ttft_ms))

    def _ended(self, call: Call) -> None:
        if call.tag:
            asyncio.get_running_loop().call_later(LINGER_S, self.attribution.finish, call.tag)
        call.over = True
        if not call.open:
            self._publish_end(call)
        else:
            # vLLM answers for a client that left before its own handler was cancelled, which aborts the request.
            asyncio.get_running_loop().call_later(LINGER_S, self._publish_end, call)

    def _publish_end(self, call: Call) -> None:
        if call.published or not call.request_id or self._publisher is None:
            return
        call.published = True
        prompt_tokens = call.prompt_tokens if call.finished else 0
        reason = call.reason if call.finished else "abort"
        if call.generations:
            self._publisher.used(call.usage(time.monotonic(), handed_over=self._handed_over()))
        self._publisher.finished(
            Finished(call.request_id, prompt_tokens, call.completion_tokens, round(call.decode_ms, 3), reason)
        )

    # A request, as blocks

    def apply(self, events: Sequence[Event]) -> None:
        """Apply what entered and left the cache, in order."""
        attribution = self.attribution
        for event in events:
            if isinstance(event, BlockStored):
                if self._follows(event):
                    tag = event.session_id or ""
                    attribution.stored(event.block_hashes, event.parent_block_hash, tag)
                    if tag in self._calls:
                        self._computed(self._calls[tag], event)
            elif isinstance(event, BlockRemoved):
                if event.medium in (None, DEVICE) and event.group_idx in (None, self._group):
                    attribution.removed(event.block_hashes)
            else:
                attribution.cleared()
        self._publish_keys()

    def _follows(self, event: BlockStored) -> bool:
        if event.medium not in (None, DEVICE) or event.kv_cache_spec_kind not in (None, *WHOLE_PREFIX):
            return False
        if self._group is None and event.group_idx is not None:
            self._group = event.group_idx
            self._block_size = event.block_size
            if self._publisher is not None:
                self._publisher.facts.block_tokens = event.block_size
        return event.group_idx in (None, self._group)

    def _computed(self, call: Call, event: BlockStored) -> None:
        """Note computed blocks of a request whose answer comes whole: with the last full one it has its first token."""
        below = self.attribution.depth(event.block_hashes[-1]) * self._block_size
        if below <= 0:
            return
        if call.prefix_tokens < 0:
            call.prefix_tokens = below - len(event.block_hashes) * self._block_size
        if below + self._block_size > call.prompt_tokens:
            del self._calls[call.tag]
            self._first_token(call, call.prefix_tokens)

    def _lost(self) -> None:
        """Count nothing as resident until it is stored again, since events are missing."""
        log.warning("KV events were lost: what this engine holds is learned anew")
        self.attribution.cleared()
        self._publish_keys()

    def _publish_keys(self) -> None:
        if self._publisher is not None:
            self._publisher.keys(*self.attribution.take())


def _pass_over(piece: bytes) -> None:
    """Nothing is made of it."""


def _prompt_tokens(prompt: Any) -> int:
    """Length of what `generate` is given: tokens, with or without media; 0 for what has none."""
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else getattr(prompt, "prompt_token_ids", None)
    return len(ids or ())
