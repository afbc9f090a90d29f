"""Generation: from a request body to an answer under way, and from engine steps to the bytes of answers.

`Generation` owns the model, its driver and everything in flight. It is what vLLM's API server and engine are together.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from engine.sim.answers import Choice, Reply, StreamReply
from engine.sim.bodies import Ask, chat, completion, message, read_json, response
from engine.sim.config import SimConfig
from engine.sim.driver import Driver
from engine.sim.errors import RequestError
from engine.sim.http import Exchange
from engine.sim.metrics import Metrics
from engine.sim.model import EngineModel, SimRequest, StepResult
from engine.sim.prompts import block_hashes, draw_answer
from engine.sim.reporting import Reporter
from engine.sim.wire import ChatWire, CompletionWire, Wire
from engine.sim.wire_events import MessageWire, ResponseWire

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
        reporter: Reporter | None = None,
    ) -> None:
        self.metrics = Metrics(config, model)
        self.reset_after_tokens = 0
        """Fault: above 0, an answer's connection is reset when one of its choices has so many tokens."""
        self._config = config
        self._model = model
        self._loop = loop
        self._reporter = reporter
        self._driver = Driver(model, self._deliver, loop)
        self._choices: dict[str, Choice] = {}
        self._replies: set[Reply] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_id = 0

    @property
    def in_flight(self) -> int:
        """Requests being served."""
        return len(self._replies)

    async def wait_idle(self) -> None:
        """Until nothing is in flight."""
        await self._idle.wait()

    def stop(self) -> None:
        """No more engine steps."""
        self._driver.stop()

    def serve(self, exchange: Exchange) -> None:
        """Answer a request to one of `APIS`. Raises RequestError, before anything was sent or queued."""
        path = exchange.path
        reader, wire = APIS[path]
        try:
            ask = reader(read_json(exchange.body, exchange.header(b"content-type") or b""))
        except RecursionError:
            # Nested deeper than the interpreter goes; the standard library's parser ends the same way in vLLM.
            raise RequestError(400, "Bad Request", "There was an error parsing the body") from None
        try:
            self._check(ask)
        except RequestError as error:
            error.anthropic = path == "/v1/messages"
            raise
        self._answer(exchange, wire, ask)

    def _check(self, ask: Ask) -> None:
        """What vLLM refuses once it knows what is asked. Raises RequestError."""
        served, limit = self._config.model, self._config.context_tokens
        if ask.model and ask.model != served:
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
        wire = wire_class(request_id, int(time.time()), config.model, choices, ask.include_usage)
        reply_class = StreamReply if ask.stream else Reply
        reply = reply_class(exchange, wire, self._finished, time.monotonic())
        reply.request_id = request_id
        reply.first_prompt_tokens = ask.prompts[0].tokens
        reply.prompt_tokens = sum(prompt.tokens for prompt in ask.prompts)
        reply.full_block_tokens = ask.prompts[0].tokens // config.block_size * config.block_size
        requests: list[SimRequest] = []
        for prompt in ask.prompts:
            room = config.context_tokens - prompt.tokens
            limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
            mean = 0 if ask.ignore_eos else config.mean_output_tokens
            for _ in range(ask.choices):
                answer = draw_answer(prompt, len(requests), config.seed, mean, limit, ask.min_tokens)
                hashes = block_hashes(prompt.data + answer.data(), config.block_size, ask.cache_salt)
                self._last_id += 1
                request = SimRequest(str(self._last_id), prompt.tokens, answer.tokens, hashes)
                choice = Choice(reply, len(requests), request.request_id, answer)
                reply.add(choice)
                self._choices[request.request_id] = choice
                requests.append(request)
        if self._reporter is not None:
            self._reporter.began(exchange.body, requests[0])
        self._replies.add(reply)
        self._idle.clear()
        exchange.on_lost = lambda: self._abort(reply)
        reply.begin()
        if config.first_token_ms:
            self.metrics.waiting_outside += len(requests)
            self._loop.call_later(config.first_token_ms / 1000, self._submit_late, requests)
        else:
            for request in requests:
                self._driver.submit(request)

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
                    self.metrics.first_token_s.observe(now_s - reply.arrived_s)
                    if reporter is not None and choice.index == 0:
                        ttft_s = now_s - reply.arrived_s
                        reporter.first_token(reply.request_id, reply.first_prompt_tokens, cached, ttft_s)
        cut = self.reset_after_tokens
        for request_id in result.emitted:
            if choice := choices.get(request_id):
                choice.reply.token(choice)
                if cut and choice.computed == cut:
                    choice.reply.exchange.reset()
        for request_id in result.finished:
            if finished := choices.pop(request_id, None):
                self.metrics.finished[finished.reason] += 1

    def _finished(self, reply: Reply) -> None:
        self.metrics.latency_s.observe(time.monotonic() - reply.arrived_s)
        self._report_end(reply, reply.first_prompt_tokens, reply.choices[0].tokens)
        self._forget(reply)

    def _abort(self, reply: Reply) -> None:
        """The client left: whatever is still being computed for it stops."""
        for choice in reply.choices:
            if self._choices.pop(choice.request_id, None) is not None:
                self._model.abort(choice.request_id)
                self.metrics.finished["abort"] += 1
        if reply in self._replies:
            self._report_end(reply, 0, 0)
        self._forget(reply)

    def _report_end(self, reply: Reply, prompt_tokens: int, completion_tokens: int) -> None:
        if self._reporter is not None:
            sequence_id = reply.choices[0].request_id
            self._reporter.ended(sequence_id, reply.request_id, prompt_tokens, completion_tokens)

    def _forget(self, reply: Reply) -> None:
        self._replies.discard(reply)
        if not self._replies:
            self._idle.set()
