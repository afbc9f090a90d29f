"""Generation: from a request body to an answer under way, and from engine steps to the bytes of answers.

`Generation` owns the model, its driver and everything in flight. It is what vLLM's API server and engine are together.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from array import array
from collections.abc import Callable
from typing import Any

import msgspec

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import SCOPE_HEADER, prefix_keys, prompt_start, scoped
from pointsman.contract.registration import Role
from pointsman.contract.scope import request_scope, tenant_salt
from pointsman.engine.disaggregation import (
    LEG_HEADER,
    PARAMS,
    PREFILL_HEADER,
    REFUSAL,
    Leg,
    Peer,
    pack_prefix,
    parse_peer,
)
from pointsman.engine.sim.answers import Choice, Reply, StreamReply
from pointsman.engine.sim.bodies import Ask, chat, completion, message, read_json, response
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.driver import Driver
from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.faults import Faults
from pointsman.engine.sim.handoff import KeptKV, Taker
from pointsman.engine.sim.http import Exchange
from pointsman.engine.sim.metrics import Metrics
from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult
from pointsman.engine.sim.prompts import block_hashes, draw_answer
from pointsman.engine.sim.reporting import Reporter
from pointsman.engine.sim.wire import ChatWire, CompletionWire, Wire
from pointsman.engine.sim.wire_events import MessageWire, ResponseWire

APIS: dict[str, tuple[Callable[[dict[str, Any]], Ask], type[Wire]]] = {
    "/v1/chat/completions": (chat, ChatWire),
    "/v1/completions": (completion, CompletionWire),
    "/v1/responses": (response, ResponseWire),
    "/v1/messages": (message, MessageWire),
}


class Generation:
    """Serves the four APIs of one replica."""

    def __init__(
        self,
        config: SimConfig,
        model: EngineModel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.metrics = Metrics(config, model)
        self.kept = KeptKV(model, loop, config.kv_lease_s)
        self.port = config.port
        """Where others fetch what is kept."""
        self._taker = Taker(config) if config.role is Role.DECODE else None
        self._faults = Faults()
        self.adapters = set(config.adapters)
        """LoRA adapters that are served."""
        self._config = config
        self._model = model
        self._loop = loop
        self._reporter = Reporter(config, model, self.handoffs) if config.register and config.events else None
        self._driver = Driver(model, self._deliver, loop)
        self._choices: dict[str, Choice] = {}
        self._replies: set[Reply] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_id = 0

    @property
    def reporter(self) -> Reporter | None:
        """Who tells routers; None for a plain endpoint."""
        return self._reporter

    def handoffs(self) -> Handoffs | None:
        """What became of prompts to be computed elsewhere; None unless this is a decode replica."""
        return None if self._taker is None else self._taker.totals()

    async def close(self) -> None:
        """After `stop`: connections to other replicas end."""
        if self._taker is not None:
            await self._taker.close()

    @property
    def in_flight(self) -> int:
        """Requests being served."""
        return len(self._replies)

    async def wait_idle(self) -> None:
        """Until nothing is in flight."""
        await self._idle.wait()

    def suffer(self, faults: Faults) -> None:
        """Takes the faults of generation as they are switched from here on."""
        self._faults = faults
        self._driver.slowness = faults.slowness

    def stop(self) -> None:
        """No more engine steps."""
        self._driver.stop()

    def serve(self, exchange: Exchange) -> None:
        """Answer a request to one of `APIS`. Raises RequestError, before anything was sent or queued."""
        path = exchange.path
        reader, wire = APIS[path]
        try:
            ask = self._read(exchange, reader)
        except RecursionError:
            # Nested deeper than the interpreter goes; the standard library's parser ends the same way in vLLM.
            raise RequestError(400, "Bad Request", "There was an error parsing the body") from None
        try:
            self._check(ask)
        except RequestError as error:
            error.anthropic = path == "/v1/messages"
            raise
        self._answer(exchange, wire, ask)

    def _read(self, exchange: Exchange, reader: Callable[[dict[str, Any]], Ask]) -> Ask:
        """What is asked. Raises RequestError."""
        values = read_json(exchange.body, exchange.header(b"content-type") or b"")
        ask = reader(values)
        role = self._config.role
        if role is not Role.BOTH and (params := values.get(PARAMS)) is not None:
            if exchange.header(LEG_HEADER.encode()) is None:
                raise RequestError(400, "BadRequestError", REFUSAL, PARAMS)
            ask.keeps_kv = role is Role.PREFILL and isinstance(params, dict) and bool(params.get("do_remote_decode"))
        return ask

    def _check(self, ask: Ask) -> None:
        """What vLLM refuses once it knows what is asked. Raises RequestError."""
        served, limit = self._config.model, self._config.context_tokens
        if ask.model and ask.model != served and ask.model not in self.adapters:
            text = f"The model `{ask.model}` does not exist. Valid aliases: {served}."
            raise RequestError(404, "NotFoundError", text, "model")
        if ask.max_tokens is not None and ask.max_tokens > limit:
            text = f"max_tokens={ask.max_tokens} cannot be greater than max_model_len={limit}. "
            text += f"Please request fewer output tokens. (parameter=max_tokens, value={ask.max_tokens})"
            raise RequestError(400, "BadRequestError", text, "max_tokens")
        for prompt in ask.prompts:
            if not prompt.tokens:
                raise RequestError(400, "BadRequestError", "The decoder prompt cannot be empty")
            if prompt.tokens > limit:
                text = f"This model's maximum context length is {limit} tokens. However, your prompt contains "
                text += f"{prompt.tokens} input tokens, which exceeds this limit even without any output tokens. "
                text += f"Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt.tokens})"
                raise RequestError(400, "BadRequestError", text, "input_tokens")
            if prompt.tokens == limit:
                text = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
                raise RequestError(400, "BadRequestError", text, "max_tokens")

    def _answer(self, exchange: Exchange, wire_class: type[Wire], ask: Ask) -> None:
        """Queue every sequence the request asks for and begin its reply."""
        config = self._config
        given = exchange.header(b"x-request-id")
        request_id = given.decode("latin-1") if given else uuid.uuid4().hex
        choices = len(ask.prompts) * ask.choices
        wire = wire_class(request_id, int(time.time()), ask.model or config.model, choices, ask.include_usage)
        reply_class = StreamReply if ask.stream else Reply
        reply = reply_class(exchange, wire, self._finished, time.monotonic())
        reply.request_id = request_id
        reply.first_prompt_tokens = ask.prompts[0].tokens
        reply.prompt_tokens = sum(prompt.tokens for prompt in ask.prompts)
        reply.keeps_kv = ask.keeps_kv
        reply.full_block_tokens = ask.prompts[0].tokens // config.block_size * config.block_size
        said = (exchange.header(SCOPE_HEADER.encode()) or b"").decode("latin-1")
        scope, tenant = request_scope(said, ask.model or config.model, ask.cache_salt)
        salt = tenant_salt(tenant, ask.cache_salt)
        requests: list[SimRequest] = []
        adapter = ask.model if ask.model in self.adapters else ""
        if adapter:
            # Its KV is its own, as by vLLM's extra keys.
            salt = f"{salt}\0{adapter}"
        for prompt in ask.prompts:
            room = config.context_tokens - prompt.tokens
            limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
            mean = 0 if ask.ignore_eos else config.mean_output_tokens
            for _ in range(ask.choices):
                answer = draw_answer(prompt, len(requests), config.seed, mean, limit, ask.min_tokens)
                hashes = block_hashes(prompt.data + answer.data(), config.block_size, salt)
                self._last_id += 1
                request = SimRequest(
                    str(self._last_id), prompt.tokens, answer.tokens, hashes, kept=ask.keeps_kv, adapter=adapter
                )
                choice = Choice(reply, len(requests), request.request_id, answer)
                reply.add(choice)
                self._choices[request.request_id] = choice
                requests.append(request)
        if self._reporter is not None:
            prefix = (exchange.header(LEG_HEADER.encode()) or b"").decode("latin-1") if ask.keeps_kv else ""
            self._reporter.began(exchange.body, requests[0], scope, prefix)
        self._replies.add(reply)
        self._idle.clear()
        exchange.on_lost = lambda: self._abort(reply)
        reply.begin()
        leg = self._leg(exchange, ask, reply, scope, salt)
        if leg is not None:
            reply.handoff = self._loop.create_task(self._hand_over(*leg, requests[0]))
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

    def _leg(self, exchange: Exchange, ask: Ask, reply: Reply, scope: int, salt: str) -> tuple[Peer, Leg] | None:
        """The prefill leg of a request, where the router chose one."""
        named = exchange.header(PREFILL_HEADER.encode())
        if named is None or self._taker is None:
            return None
        peer = parse_peer(named.decode("latin-1"))
        if peer is None or len(reply.choices) > 1:
            self._taker.unsuitable()
            return None
        body = exchange.body
        leg = Leg(
            request_id=reply.request_id,
            model=ask.model or self._config.model,
            prompt_token_ids=array("I", ask.prompts[0].data).tolist(),
            cache_salt=salt,
            prefix=pack_prefix(scoped(prefix_keys(body), scope), len(body) - max(0, prompt_start(body))),
        )
        return peer, leg

    async def _hand_over(self, peer: Peer, leg: Leg, request: SimRequest) -> None:
        assert self._taker is not None
        self.metrics.waiting_outside += 1
        try:
            tokens = await self._taker.take(peer, leg)
        finally:
            self.metrics.waiting_outside -= 1
        self._submit([msgspec.structs.replace(request, external_tokens=tokens)])

    def _submit_late(self, requests: list[SimRequest]) -> None:
        self.metrics.waiting_outside -= len(requests)
        for request in requests:
            if request.request_id in self._choices:
                self._driver.submit(request)

    def _deliver(self, result: StepResult) -> None:
        """Hand a step's tokens to the answers they belong to; some may have been aborted while it ran."""
        choices, reporter = self._choices, self._reporter
        if reporter is not None and result.events:
            reporter.stepped(result)
        if result.first:
            now_s = time.monotonic()
            for request_id, cached in result.first.items():
                if choice := choices.get(request_id):
                    reply = choice.reply
                    reply.first(cached)
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
                choice.reply.token(choice)
                if cut and choice.computed == cut:
                    choice.reply.exchange.reset()
        for request_id in result.finished:
            if finished := choices.pop(request_id, None):
                self.metrics.finished[finished.reason] += 1

    def _keep(self, choice: Choice) -> None:
        """The only token of a prefill leg is computed: its blocks stay, and the answer says where."""
        reply = choice.reply
        reply.wire.kv_transfer_params = self.kept.keep(
            choice.request_id, reply.first_prompt_tokens, self._config.host, self.port
        )

    def _finished(self, reply: Reply) -> None:
        now_s = time.monotonic()
        self.metrics.latency_s.observe(now_s - reply.arrived_s)
        decode_ms = (now_s - reply.first_s) * 1000
        self._report_end(reply, reply.first_prompt_tokens, reply.choices[0].tokens, decode_ms)
        self._forget(reply)

    def _abort(self, reply: Reply) -> None:
        """The client left: whatever is still being computed for it stops, here and elsewhere."""
        if reply.handoff is not None:
            reply.handoff.cancel()
        for choice in reply.choices:
            if self._choices.pop(choice.request_id, None) is not None:
                self._model.abort(choice.request_id)
                self._model.let_go(choice.request_id)
                self.metrics.finished["abort"] += 1
        if reply in self._replies:
            decode_ms = (time.monotonic() - reply.first_s) * 1000 if reply.first_s else 0.0
            self._report_end(reply, 0, reply.choices[0].computed, decode_ms)
        self._forget(reply)

    def _report_end(self, reply: Reply, prompt_tokens: int, completion_tokens: int, decode_ms: float) -> None:
        if self._reporter is not None:
            sequence_id = reply.choices[0].request_id
            self._reporter.ended(sequence_id, reply.request_id, prompt_tokens, completion_tokens, decode_ms)

    def _forget(self, reply: Reply) -> None:
        self._replies.discard(reply)
        if not self._replies:
            self._idle.set()
