"""`POST /hold`: HAProxy asks for a request that it holds, and is answered when it is that request's turn.

Same form and same answer as a lookup, only later. Whoever waits costs a connection and nothing else: while there is
somebody, the queue is looked at every `STEP_S`; a coarse clock, since room appears for many reasons (an end, a silence
that lasted, a replica, another policy) and nobody minds to wait for some milliseconds who would wait for seconds. A
connection that ends frees its place.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.policies.decision import Decision
from pointsman.router.decide.hold_queue import STEP_S, Held, Outcome
from pointsman.router.fronts.deciding import Decider
from pointsman.router.fronts.lookup import FormReader, encode_answer

NOBODY_DECIDED = PlainTextResponse("nobody decided\n", 503)
"""HAProxy fails open."""

log = structlog.get_logger(__name__)


class HoldFront:
    """One route over the queue, and the clock that looks at it."""

    def __init__(self, decider: Decider, forms: FormReader) -> None:
        self._decider = decider
        self._forms = forms
        self._turns: dict[Held, asyncio.Future[Decision | None]] = {}
        """What each of the held waits for; None: no opinion."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def routes(self) -> list[Route]:
        return [Route("/hold", self.hold, methods=["POST"])]

    async def hold(self, request: Request) -> Response:
        form = await self._forms.read(request)
        if self._closed:
            return NOBODY_DECIDED
        asked = self._decider.hold(form)
        if isinstance(asked, Decision):
            return PlainTextResponse(encode_answer(asked))
        turn = self._turns[asked] = asyncio.get_running_loop().create_future()
        self._look_again()
        # All of the form is read: what comes next is the end of the connection.
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((turn, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            del self._turns[asked]
            self._decider.leave(asked, Outcome.GONE)
        decision = turn.result() if turn.done() else None
        return NOBODY_DECIDED if decision is None else PlainTextResponse(encode_answer(decision))

    def close(self) -> None:
        """The router stops: HAProxy chooses for all that wait, and for whoever would."""
        self._closed = True
        self._drop_all()

    def _drop_all(self) -> None:
        for held, turn in self._turns.items():
            if not turn.done():
                self._decider.leave(held, Outcome.DROPPED)
                turn.set_result(None)

    def _look_again(self) -> None:
        if self._timer is None and self._turns:
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._step)

    def _step(self) -> None:
        self._timer = None
        try:
            for held, decision in self._decider.step_held():
                turn = self._turns.get(held)
                if turn is not None and not turn.done():
                    turn.set_result(decision)
        except Exception:
            log.exception("lookup of a held request failed, all are let go")
            self._drop_all()
        self._look_again()
