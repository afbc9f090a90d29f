"""`POST /hold`: HAProxy asks for a request that it holds, and is answered when it is that request's turn.

Same form and same answer as a lookup, only later; whose turn it is, `router/decide/hold.py` says. A request that waits
costs a connection and nothing else: while one waits, the queue is looked at every `STEP_S`. That clock is coarse, since
room appears for many reasons (an end, an idle timeout, a replica, another policy), and a request that would wait for
seconds can wait some milliseconds more. A connection that ends frees its place.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.policies.decision import Decision
from pointsman.router.decide.features import MAX_ID_BYTES, text
from pointsman.router.decide.hold import STEP_S, HoldTurns
from pointsman.router.fronts.deciding import Decider
from pointsman.router.fronts.lookup import FormReader, encode_lines, trace_line
from pointsman.router.process.clock import Clock
from pointsman.router.requests.hold_queue import Held, Outcome

NOBODY_DECIDED = PlainTextResponse("nobody decided\n", 503)
"""HAProxy fails open."""

log = structlog.get_logger(__name__)


class HoldFront:
    """One route over the turns of held requests, and the timer that steps them."""

    def __init__(self, decider: Decider, turns: HoldTurns, forms: FormReader, clock: Clock) -> None:
        self._decider = decider
        self._turns = turns
        self._forms = forms
        self._clock = clock
        self._answers: dict[Held, asyncio.Future[Decision | None]] = {}
        """The answer that each held request waits for; None when HAProxy has to choose."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def routes(self) -> list[Route]:
        return [Route("/hold", self.hold, methods=["POST"])]

    async def hold(self, request: Request) -> Response:
        form = await self._forms.read(request)
        if self._closed:
            return NOBODY_DECIDED
        asked = self._turns.ask(self._decider.features(form), self._clock())
        if isinstance(asked, Decision):
            return self._told(asked, form)
        answer = self._answers[asked] = asyncio.get_running_loop().create_future()
        self._start_timer()
        # All of the form is read: what comes next is the end of the connection.
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            del self._answers[asked]
            self._turns.leave(asked, self._clock(), Outcome.GONE)
        decision = answer.result() if answer.done() else None
        return NOBODY_DECIDED if decision is None else self._told(decision, form)

    def _told(self, decision: Decision, form: dict[str, object]) -> Response:
        left = self._decider.limits.left_of(text(form.get("id"), MAX_ID_BYTES))
        return PlainTextResponse(encode_lines(decision, left) + trace_line(self._decider, decision, form))

    def close(self) -> None:
        """The router stops: HAProxy chooses for all requests that wait, and for those that would."""
        self._closed = True
        self._drop_all()

    def _drop_all(self) -> None:
        for held, answer in self._answers.items():
            if not answer.done():
                self._turns.leave(held, self._clock(), Outcome.DROPPED)
                answer.set_result(None)

    def _start_timer(self) -> None:
        if self._timer is None and self._answers:
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._step)

    def _step(self) -> None:
        self._timer = None
        try:
            for held, decision in self._turns.step(self._clock()):
                answer = self._answers.get(held)
                if answer is not None and not answer.done():
                    answer.set_result(decision)
        except Exception:
            log.exception("lookup of a held request failed, all are let go")
            self._drop_all()
        self._start_timer()
