"""Generation: from a request body to an active answer, and from engine steps to the bytes of answers.

`Generation` owns the model, its driver and everything in flight: what vLLM's API server and engine are together.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import msgspec

from pointsman.contract.events import Finished, Handoffs
from pointsman.contract.prefix_keys import SCOPE_HEADER
from pointsman.contract.priority import PRIORITY_HEADER, engine_priority
from pointsman.contract.registration import Role
from pointsman.contract.renaming import MODEL_HEADER
from pointsman.contract.scope import request_scope, tenant_salt
from pointsman.engine.disaggregation import PARAMS, PREFILL_KEYS_HEADER, REFUSAL
from pointsman.engine.sim.answers import Choice, Reply, StreamReply
from pointsman.engine.sim.bodies import Ask, read_request
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.driver import Driver
from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.faults import Faults
from pointsman.engine.sim.handoff import HandoffClient, KeptKV
from pointsman.engine.sim.http import Exchange
from pointsman.engine.sim.metrics import Metrics
from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult
from pointsman.engine.sim.prompts import block_hashes, draw_answer
from pointsman.engine.sim.reporting import Reporter
from pointsman.engine.sim.request_log import TAG_HEADER, RequestLog
from pointsman.engine.sim.wire import ChatWire, CompletionWire, Wire
from pointsman.engine.sim.wire_events import MessageWire, ResponseWire

APIS: dict[str, type[Wire]] = {
    "/v1/chat/completions": ChatWire,
    "/v1/completions": CompletionWire,
    "/v1/responses": ResponseWire,
    "/v1/messages": MessageWire,
}


class Generation:
    """Serves the four APIs of one replica."""

    def __init__(
        self, config: SimConfig, model: EngineModel, loop: asyncio.AbstractEventLoop, *, born_ms: int = 0
    ) -> None:
        """born_ms: start of the replica in milliseconds since 1970, as it is registered; 0 for none."""
        self.metrics = Metrics(config, model)
        self.kept = KeptKV(model, loop, config.kv_lease_s)
        self.port = config.port
        """The port where decode replicas fetch kept KV."""
        self._handoff_client = HandoffClient(config) if config.role is Role.DECODE else None
        self._faults = Faults()
        self.adapters = set(config.adapters)
        """LoRA adapters that are served."""
        self._log = RequestLog(config.request_log) if config.request_log else None
        self._config = config
        self.model = model
        self._loop = loop
        reports = config.register and config.events
        self.reporter = Reporter(config, model, self.handoffs, born_ms=born_ms) if reports else None
        """The reporter to routers; None for a plain endpoint."""
        self._driver = Driver(model, self._deliver, loop)
        self._choices: dict[str, Choice] = {}
        self._replies: set[Reply] = set()
        self.idle = asyncio.Event()
        """Set while nothing is in flight."""
        self.idle.set()
        self._last_id = 0

    def handoffs(self) -> Handoffs | None:
        """Totals of handoffs; None unless this is a decode replica."""
        return None if self._handoff_client is None else self._handoff_client.totals()

    @property
    def in_flight(self) -> int:
        """Requests being served."""
        return len(self._replies)

    def suffer(self, faults: Faults) -> None:
        """Generate with these faults from here on."""
        self._faults = faults
        self._driver.slowness = faults.slowness

    async def stop(self) -> None:
        """End engine steps and connections to other replicas."""
        self._driver.stop()
        if self._log is not None:
            self._log.close()
        if self._handoff_client is not None:
            await self._handoff_client.close()

    def serve(self, exchange: Exchange) -> None:
        """Answer a request to one of `APIS`. Raises RequestError, before anything was sent or queued."""
        ask = read_request(exchange.path, exchange.body, exchange.header(b"content-type") or b"")
        named = ask.model
        if ask.model and (real := exchange.header(MODEL_HEADER.encode())) is not None:
            ask.model = real.decode("latin-1")
        _check_handoff(exchange, ask, self._config.role)
        _check_model(ask, {self._config.model, *self.adapters})
        _check_lengths(ask, self._config.context_tokens)
        self._answer(exchange, APIS[exchange.path], ask, named)

    def _answer(self, exchange: Exchange, wire_class: type[Wire], ask: Ask, named: str) -> None:
        """Queue every sequence the request asks for and begin its reply, by the name of the model in its body."""
        config = self._config
        request_id = exchange.text(b"x-request-id") or uuid.uuid4().hex
        choices = len(ask.prompts) * ask.choices
        wire = wire_class(request_id, int(time.time()), named or config.model, choices, ask.include_usage)
        reply_class = StreamReply if ask.stream else Reply
        reply = reply_class(exchange, wire, self._finished, time.monotonic())
        reply.request_id = request_id
        reply.first_prompt_tokens = ask.prompts[0].tokens
        reply.prompt_tokens = sum(prompt.tokens for prompt in ask.prompts)
        reply.keeps_kv = ask.keeps_kv
        reply.full_block_tokens = ask.prompts[0].tokens // config.block_size * config.block_size
        said = exchange.text(SCOPE_HEADER.encode())
        scope, tenant = request_scope(said, ask.model or config.model, ask.cache_salt)
        salt = tenant_salt(tenant, ask.cache_salt)
        requests: list[SimRequest] = []
        ranked = config.scheduling_policy == "priority"
        priority = engine_priority(exchange.text(PRIORITY_HEADER.encode())) if ranked else 0
        adapter = ask.model if ask.model in self.adapters else ""
        if adapter:
            # Its KV is its own, as by vLLM's extra keys.
            salt = f"{salt}\0{adapter}"
        reply.adapter = adapter
        for number, prompt in enumerate(ask.prompts):
            room = config.context_tokens - prompt.tokens
            limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
            mean = 0 if ask.ignore_eos else config.mean_output_tokens
            for _ in range(ask.choices):
                answer = draw_answer(prompt, len(requests), config.seed, mean, limit, ask.min_tokens)
                hashes = block_hashes(prompt.data + answer.data(), config.block_size, salt)
                self._last_id += 1
                request = SimRequest(
                    str(self._last_id),
                    prompt.tokens,
                    answer.tokens,
                    hashes,
                    kept=ask.keeps_kv,
                    adapter=adapter,
                    priority=priority,
                )
                choice = Choice(reply, len(requests), request, number, answer)
                reply.add(choice)
                self._choices[request.request_id] = choice
                requests.append(request)
        if self.reporter is not None:
            prefix = exchange.text(PREFILL_KEYS_HEADER.encode()) if ask.keeps_kv else ""
            self.reporter.began(exchange.body, requests[0], scope, prefix)
        if self._log is not None:
            self._log.begin(reply, exchange.text(TAG_HEADER))
        self._replies.add(reply)
        self.idle.clear()
        exchange.on_lost = lambda: self._abort(reply)
        reply.begin()
        client = self._handoff_client
        handoff = None if client is None else client.plan(exchange, ask, request_id, scope, salt)
        if handoff is not None:
            reply.handoff = self._loop.create_task(self._submit_after(handoff, reply, requests[0]))
        else:
            self._submit(requests)

    def _submit(self, requests: list[SimRequest]) -> None:
        if self._faults.stall:
            return
        if self._config.first_token_ms:
            self.metrics.waiting_outside += len(requests)
            self._loop.call_later(self._config.first_token_ms / 1000, self._submit_late, requests)
        else:
            for request in requests:
                self._driver.submit(request)

    async def _submit_after(self, handoff: Coroutine[Any, Any, int], reply: Reply, request: SimRequest) -> None:
        """Queue a request once its prompt was computed on another replica, or not."""
        self.metrics.waiting_outside += 1
        try:
            tokens = await handoff
        finally:
            self.metrics.waiting_outside -= 1
        reply.handed_over = tokens > 0
        self._submit([msgspec.structs.replace(request, external_tokens=tokens)])

    def _submit_late(self, requests: list[SimRequest]) -> None:
        self.metrics.waiting_outside -= len(requests)
        for request in requests:
            if request.request_id in self._choices:
                self._driver.submit(request)

    def _deliver(self, result: StepResult) -> None:
        """Hand a step's tokens to the answers they belong to; some may have been aborted while it ran."""
        choices, reporter = self._choices, self.reporter
        if reporter is not None and result.events:
            reporter.stepped(result)
        if result.first:
            now_s = time.monotonic()
            for request_id, cached in result.first.items():
                if choice := choices.get(request_id):
                    reply = choice.reply
                    reply.first(cached)
                    choice.cached = cached
                    if self._log is not None:
                        self._log.prompt(reply, choice)
                    reply.first_s = reply.first_s or now_s
                    self.metrics.first_token_s.observe(now_s - reply.arrived_s)
                    if reporter is not None and choice.index == 0:
                        ttft_s = now_s - reply.arrived_s
                        reporter.first_token(reply.request_id, reply.first_prompt_tokens, cached, ttft_s)
        cut = self._faults.reset_after_tokens
        for request_id in result.emitted:
            if choice := choices.get(request_id):
                if choice.reply.keeps_kv and choice.computed + 1 == choice.tokens:
                    self._keep(choice)
                if self._log is not None:
                    self._log.token(choice.reply)
                choice.reply.token(choice)
                if cut and choice.computed == cut:
                    choice.reply.exchange.reset()
        for request_id in result.finished:
            if finished := choices.pop(request_id, None):
                self.metrics.finished[finished.reason] += 1
        if self._log is not None:
            self._log.write()

    def _keep(self, choice: Choice) -> None:
        """The only token of a prefill request is computed: its blocks stay, and the answer says where."""
        reply = choice.reply
        reply.wire.kv_transfer_params = self.kept.keep(
            choice.request_id, reply.first_prompt_tokens, self._config.host, self.port
        )

    def _finished(self, reply: Reply) -> None:
        now_s = time.monotonic()
        self.metrics.latency_s.observe(now_s - reply.arrived_s)
        decode_ms = (now_s - reply.first_s) * 1000
        first = reply.choices[0]
        self._report_end(reply, reply.first_prompt_tokens, first.tokens, decode_ms, first.reason)
        self._forget(reply)

    def _abort(self, reply: Reply) -> None:
        """The client left: whatever is still being computed for it stops, here and elsewhere."""
        if reply.handoff is not None:
            reply.handoff.cancel()
        for choice in reply.choices:
            if self._choices.pop(choice.request_id, None) is not None:
                self.model.abort(choice.request_id)
                self.model.let_go(choice.request_id)
                self.metrics.finished["abort"] += 1
        if reply in self._replies:
            decode_ms = (time.monotonic() - reply.first_s) * 1000 if reply.first_s else 0.0
            self._report_end(reply, 0, reply.choices[0].computed, decode_ms, "abort")
            if self._log is not None:
                self._log.write()
        self._forget(reply)

    def _report_end(self, reply: Reply, prompt_tokens: int, tokens: int, decode_ms: float, reason: str) -> None:
        if self._log is not None:
            self._log.end(reply)
        if self.reporter is not None:
            self.reporter.publisher.used(reply.usage(time.monotonic()))
            ended = Finished(reply.request_id, prompt_tokens, tokens, decode_ms, reason)
            self.reporter.ended(reply.choices[0].request_id, ended)

    def _forget(self, reply: Reply) -> None:
        self._replies.discard(reply)
        if not self._replies:
            self.idle.set()


def _check_handoff(exchange: Exchange, ask: Ask, role: Role) -> None:
    """Note whether the request is a prefill request. Raises RequestError for parameters that no replica set."""
    params = ask.kv_transfer_params
    if role is Role.BOTH or params is None:
        return
    if exchange.header(PREFILL_KEYS_HEADER.encode()) is None:
        raise RequestError(400, "BadRequestError", REFUSAL, PARAMS)
    ask.keeps_kv = role is Role.PREFILL and isinstance(params, dict) and bool(params.get("do_remote_decode"))


def _check_model(ask: Ask, served: set[str]) -> None:
    """Raises RequestError for a model that is not served; none named is the replica's own."""
    if ask.model and ask.model not in served:
        raise RequestError(404, "NotFoundError", f"The model `{ask.model}` does not exist.", "model")


def _check_lengths(ask: Ask, limit: int) -> None:
    """Raises RequestError for what does not fit a context of `limit` tokens."""
    if ask.max_tokens is not None and ask.max_tokens > limit:
        text = f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={limit}."
        raise RequestError(400, "BadRequestError", text, "max_tokens")
    for prompt in ask.prompts:
        if not 0 < prompt.tokens < limit:
            text = f"This model's maximum context length is {limit} tokens, one of them for the answer. "
            text += f"However, your prompt contains {prompt.tokens} input tokens."
            raise RequestError(400, "BadRequestError", text, "input_tokens")
