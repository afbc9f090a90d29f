"""`POST /hold`: HAProxy asks for a request that it holds, and is answered when it is that request's turn.

Same form and same answer as a lookup, only later; whose turn it is, `router/decide/hold.py` says. A request that waits
costs a connection and nothing else: while one waits, the queue is looked at every `STEP_S`. That clock is coarse, since
room appears for many reasons (an end, an idle timeout, a replica, another policy), and a request that would wait for
seconds can wait some milliseconds more. A connection that ends frees its place.

HAProxy ends the connection of a request whose client it sees leave. Of HTTP/1.1 clients it does not see that while it
holds their requests, so the form names the client's connection, and the kernel is asked for it every `LOOK_S`.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.policies.decision import Decision
from pointsman.router.decide.features import MAX_ID_BYTES, text
from pointsman.router.decide.hold import STEP_S, HoldTurns
from pointsman.router.fronts.deciding import Decider
from pointsman.router.fronts.lookup import FormReader, encode_lines, trace_line
from pointsman.router.process.client_sockets import ClientSockets, Connection, read_connection
from pointsman.router.process.clock import Clock
from pointsman.router.requests.hold_queue import Held, Outcome

NOBODY_DECIDED = PlainTextResponse("nobody decided\n", 503)
"""HAProxy fails open."""

LOOK_S = 1.0
"""Seconds between two looks at the connection of a client whose request is held."""

log = structlog.get_logger(__name__)


class Waiting(msgspec.Struct, eq=False):
    """A held request as its front sees it."""

    answer: asyncio.Future[Decision | None]
    """The answer that the request waits for; None when HAProxy has to choose."""
    client: Connection | None
    """Connection of the client; None where nobody can tell whether it is still there."""
    look_s: float
    """When to look at the connection next."""


class HoldFront:
    """One route over the turns of held requests, and the timer that steps them."""

    def __init__(
        self, decider: Decider, turns: HoldTurns, forms: FormReader, clock: Clock, sockets: ClientSockets | None = None
    ) -> None:
        """sockets: where clients' connections are looked up; None: HAProxy alone says who left."""
        self._decider = decider
        self._turns = turns
        self._forms = forms
        self._clock = clock
        self._sockets = sockets
        self._waiting: dict[Held, Waiting] = {}
        """By held request; the one whose connection is looked at next comes first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def routes(self) -> list[Route]:
        return [Route("/hold", self.hold, methods=["POST"])]

    async def hold(self, request: Request) -> Response:
        form = await self._forms.read(request)
        if self._closed:
            return NOBODY_DECIDED
        now_s = self._clock()
        asked = self._turns.ask(self._decider.features(form), now_s)
        if isinstance(asked, Decision):
            return self._told(asked, form)
        for shed in self._turns.take_shed():
            self._answer(shed, shed.refusal)
        answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        self._waiting[asked] = Waiting(answer, self._client(form), now_s + LOOK_S)
        self._start_timer()
        # All of the form is read: what comes next is the end of the connection.
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            del self._waiting[asked]
            self._turns.leave(asked, self._clock(), Outcome.GONE)
        decision = answer.result() if answer.done() else None
        return NOBODY_DECIDED if decision is None else self._told(decision, form)

    def _client(self, form: dict[str, object]) -> Connection | None:
        """The connection of a client, if the kernel knows it: otherwise HAProxy is elsewhere."""
        if self._sockets is None:
            return None
        client = read_connection(form.get("client"), form.get("edge"))
        return None if client is None or self._sockets.is_there(client) is None else client

    def _told(self, decision: Decision, form: dict[str, object]) -> Response:
        left = self._decider.limits.left_of(text(form.get("id"), MAX_ID_BYTES))
        return PlainTextResponse(encode_lines(decision, left) + trace_line(self._decider, decision, form))

    def _answer(self, held: Held, decision: Decision | None) -> None:
        waiting = self._waiting.get(held)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(decision)

    def close(self) -> None:
        """The router stops: HAProxy chooses for all requests that wait, and for those that would."""
        self._closed = True
        self._drop_all()
        if self._sockets is not None:
            self._sockets.close()

    def _drop_all(self) -> None:
        for held, waiting in self._waiting.items():
            if not waiting.answer.done():
                self._turns.leave(held, self._clock(), Outcome.DROPPED)
                waiting.answer.set_result(None)

    def _start_timer(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._step)

    def _step(self) -> None:
        self._timer = None
        now_s = self._clock()
        try:
            self._end_those_gone(now_s)
            for held, decision in self._turns.step(now_s):
                self._answer(held, decision)
        except Exception:
            log.exception("lookup of a held request failed, all are let go")
            self._drop_all()
        self._start_timer()

    def _end_those_gone(self, now_s: float) -> None:
        """Refuses requests whose clients left: nobody reads the answer, and HAProxy lets go of them."""
        sockets = self._sockets
        if sockets is None:
            return
        looked: list[Held] = []
        for held, waiting in self._waiting.items():
            if waiting.look_s > now_s:
                break
            looked.append(held)
        for held in looked:
            waiting = self._waiting.pop(held)
            self._waiting[held] = waiting
            waiting.look_s = now_s + LOOK_S
            if waiting.client is not None and not waiting.answer.done() and not sockets.is_there(waiting.client):
                self._turns.leave(held, now_s, Outcome.GONE)
                waiting.answer.set_result(held.refusal)
