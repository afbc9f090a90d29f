"""Active answers: tokens in from the engine, bytes out to the client.

A `Reply` answers one HTTP exchange and has one `Choice` for each sequence it put into the engine. A stream whose client
reads too slowly counts what it owes and sends it as one larger chunk when the connection takes bytes again, as vLLM
merges outputs for a consumer that lags: memory per stream is a number, not a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pointsman.contract.events import RequestUsage
from pointsman.engine.sim.http import Exchange
from pointsman.engine.sim.model import SimRequest
from pointsman.engine.sim.prompts import WORD_MASK, WORDS, Answer
from pointsman.engine.sim.wire import Finished, Usage, Wire


class Choice:
    """One sequence in the engine: what it will say, and how many of its tokens were computed and sent."""

    __slots__ = (
        *("answer", "cached", "computed", "head", "index", "prompt", "prompt_tokens", "reply", "request_id", "sent"),
        *("tail", "tokens"),
    )

    def __init__(self, reply: Reply, index: int, request: SimRequest, prompt: int, answer: Answer) -> None:
        """prompt: number of its prompt among those of the request."""
        self.reply = reply
        self.index = index
        self.request_id = request.request_id
        self.prompt = prompt
        self.prompt_tokens = request.prompt_tokens
        self.cached = -1
        """Prompt tokens that were resident; -1 before the prompt is computed."""
        self.answer = answer
        self.tokens = answer.tokens
        self.computed = 0
        self.sent = 0
        self.head = self.tail = b""

    @property
    def reason(self) -> str:
        """Why the answer ends: `stop` or `length`."""
        return "stop" if self.answer.stops else "length"


class Reply:
    """An answer in one piece, sent when its last choice is computed."""

    def __init__(self, exchange: Exchange, wire: Wire, on_finished: Callable[[Reply], None], arrived_s: float) -> None:
        self.exchange = exchange
        self.wire = wire
        self.arrived_s = arrived_s
        self.choices: list[Choice] = []
        self.request_id = ""
        """The request's id, as client and router know it."""
        self.prompt_tokens = 0
        self.first_prompt_tokens = 0
        self.full_block_tokens = 0
        """Tokens of the first prompt that fill whole blocks: those that can be cached."""
        self.keeps_kv = False
        """Whether a prefill request is answered."""
        self.handed_over = False
        """Whether a prefill replica computed the prompt."""
        self.adapter = ""
        self.first_s = 0.0
        """Time at which the request's first token was computed; 0 before."""
        self.handoff: asyncio.Task[None] | None = None
        """The prefill request it waits for, if any."""
        self._on_finished = on_finished
        self._cached = -1
        self._unfinished = 0

    def add(self, choice: Choice) -> None:
        """One more choice; all are added before `begin`."""
        self.choices.append(choice)
        self._unfinished += 1

    def begin(self) -> None:
        """Begin the answer; every choice is queued."""

    def first(self, cached: int) -> None:
        """Note that a choice gets its first token; `cached` of its prompt tokens were resident."""
        if self._cached < 0:
            self._cached = cached
            self._open()

    def token(self, choice: Choice) -> None:
        """Add a token of a choice."""
        choice.computed += 1
        if choice.computed == choice.tokens:
            self._finish_choice()

    def usage(self, now_s: float) -> RequestUsage:
        """The tokens spent on the request so far. An output token of a prefill request counts where it is decoded."""
        prompts = {choice.prompt: choice for choice in reversed(self.choices) if choice.cached >= 0}
        counted = () if self.handed_over else prompts.values()
        return RequestUsage(
            self.request_id,
            sum(choice.prompt_tokens for choice in counted),
            sum(choice.cached for choice in counted),
            0 if self.keeps_kv else sum(choice.computed for choice in self.choices),
            0.0 if self.keeps_kv else (now_s - self.arrived_s) * 1000,
            self.adapter,
        )

    def _open(self) -> None:
        """The first token of all is about to be sent."""

    def _finish_choice(self) -> None:
        self._unfinished -= 1
        if not self._unfinished:
            completion = sum(choice.tokens for choice in self.choices)
            created = max(0, self.full_block_tokens - self._cached)
            finished = [Finished(c.index, c.answer.text(0, c.tokens), c.reason) for c in self.choices]
            self._close(Usage(self.prompt_tokens, completion, self._cached, created), finished)
            self._on_finished(self)

    def _close(self, usage: Usage, finished: list[Finished]) -> None:
        self.exchange.respond(200, self.wire.whole(usage, finished))


class StreamReply(Reply):
    """An answer as server-sent events, one for each token while the client keeps up."""

    _opening = b""
    """Text before the first word, until it is sent."""

    def add(self, choice: Choice) -> None:
        super().add(choice)
        if pieces := self.wire.pieces(choice.index):
            choice.head, choice.tail = pieces

    def begin(self) -> None:
        # vLLM sends the head before the first token: a time to first byte says nothing about the model.
        self.exchange.on_writable = self._catch_up
        self.exchange.start("text/event-stream; charset=utf-8")

    def token(self, choice: Choice) -> None:
        sent = choice.sent
        choice.computed += 1
        exchange = self.exchange
        if exchange.paused:
            return
        if choice.computed == sent + 1 < choice.tokens and choice.head:
            answer = choice.answer
            choice.sent = sent + 1
            exchange.write(choice.head + WORDS[(answer.start + sent * answer.stride) & WORD_MASK] + choice.tail)
        else:
            self._send(choice)

    def _open(self) -> None:
        self._opening = self.wire.opening(self.prompt_tokens)
        if self._opening and not self.exchange.paused:
            self.exchange.write(self._opening)
            self._opening = b""

    def _send(self, choice: Choice) -> None:
        """Send what is computed and not sent; with the last token, why the choice ends."""
        if self._opening:
            self.exchange.write(self._opening)
            self._opening = b""
        text = choice.answer.text(choice.sent, choice.computed)
        choice.sent = choice.computed
        if choice.computed < choice.tokens:
            self.exchange.write(self.wire.delta(choice.index, text))
            return
        if last := self.wire.last(choice.index, text, choice.reason):
            self.exchange.write(last)
        self._finish_choice()

    def _close(self, usage: Usage, finished: list[Finished]) -> None:
        self.exchange.write(self.wire.closing(usage, finished))
        self.exchange.finish()

    def _catch_up(self) -> None:
        for choice in self.choices:
            if choice.sent < choice.computed and not self.exchange.paused:
                self._send(choice)
