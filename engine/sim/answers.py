"""Answers under way: tokens in from the engine, bytes out to the client.

A `Reply` answers one HTTP exchange and has one `Choice` for each sequence it put into the engine. A stream whose client
reads too slowly counts what it owes and sends it as one larger chunk when the connection takes bytes again, as vLLM
merges outputs for a consumer that lags: memory per stream is a number, not a queue.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.sim.http import Exchange
from engine.sim.prompts import WORDS, Answer
from engine.sim.wire import Finished, Usage, Wire

_WORD_MASK = len(WORDS) - 1


class Choice:
    """One sequence in the engine: what it will say and how much of it was computed and sent."""

    __slots__ = ("answer", "computed", "head", "index", "reply", "request_id", "sent", "tail", "tokens")

    def __init__(self, reply: Reply, index: int, request_id: str, answer: Answer) -> None:
        self.reply = reply
        self.index = index
        self.request_id = request_id
        self.answer = answer
        self.tokens = answer.tokens
        self.computed = 0
        self.sent = 0
        self.head = self.tail = b""

    @property
    def reason(self) -> str:
        """Why it ends."""
        return "stop" if self.answer.stops else "length"


class Reply:
    """The whole answer of one exchange, sent when the last choice is computed. Base of `StreamReply`."""

    def __init__(
        self, exchange: Exchange, wire: Wire, prompt_tokens: int, full_block_tokens: int, arrived_s: float
    ) -> None:
        self.exchange = exchange
        self.wire = wire
        self.choices: list[Choice] = []
        self.arrived_s = arrived_s
        self.on_finished: Callable[[Reply], None] | None = None
        self.prompt_tokens = prompt_tokens
        self._full_block_tokens = full_block_tokens
        self._cached = 0
        self._open = False
        self._left = 0

    def add(self, choice: Choice) -> None:
        """One more choice; all are added before the first token."""
        self.choices.append(choice)
        self._left += 1

    def begin(self) -> None:
        """The engine has accepted everything."""

    def first(self, cached: int) -> None:
        """A choice is about to get its first token; `cached` prompt tokens were resident."""
        if not self._open:
            self._open = True
            self._cached = cached
            self._opened()

    def token(self, choice: Choice) -> None:
        """A choice got one token."""
        choice.computed += 1
        if choice.computed == choice.tokens:
            self._choice_finished()

    def _opened(self) -> None:
        pass

    def _choice_finished(self) -> None:
        self._left -= 1
        if not self._left:
            self.exchange.respond(200, self.wire.whole(self._usage(), self._finished()), headers=[("vary", "Origin")])
            self._done()

    def _done(self) -> None:
        if self.on_finished is not None:
            self.on_finished(self)

    def _usage(self) -> Usage:
        completion = sum(choice.tokens for choice in self.choices)
        created = max(0, self._full_block_tokens - self._cached)
        return Usage(self.prompt_tokens, completion, self._cached, created)

    def _finished(self) -> list[Finished]:
        return [Finished(c.index, c.answer.text(0, c.tokens), c.reason) for c in self.choices]


class StreamReply(Reply):
    """The answer as server-sent events, one for each token while the client keeps up."""

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
            exchange.write(choice.head + WORDS[(answer.start + sent * answer.stride) & _WORD_MASK] + choice.tail)
        else:
            self._send(choice)

    def _opened(self) -> None:
        if opening := self.wire.opening(self.prompt_tokens):
            self.exchange.write(opening)

    def _send(self, choice: Choice) -> None:
        """Send what is computed and not sent; with the last token, why the choice ends."""
        text = choice.answer.text(choice.sent, choice.computed)
        choice.sent = choice.computed
        if choice.computed < choice.tokens:
            self.exchange.write(self.wire.delta(choice.index, text))
            return
        if last := self.wire.last(choice.index, text, choice.reason):
            self.exchange.write(last)
        self._left -= 1
        if not self._left:
            self.exchange.write(self.wire.closing(self._usage(), self._finished()))
            self.exchange.finish()
            self._done()

    def _catch_up(self) -> None:
        for choice in self.choices:
            if choice.sent < choice.computed and not self.exchange.paused:
                self._send(choice)
