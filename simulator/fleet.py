"""A fleet in virtual time: sessions arrive, the real pipeline routes them, modelled engines serve them.

`VirtualFleet` owns the requests. Sessions begin by the trace, turns follow their answers. `VirtualRouters` know only
what was reported to them, with the delays of `FleetSettings`; the fleet shows them no output length and no engine
state. `Engines` play the replicas' steps. All three share a `VirtualClock`.

What clients and HAProxy do: a request without an opinion goes to a replica by hash (fail open). A replica that is dead
but not yet noticed refuses the connection, and the decision's second choice is tried. A request whose replica dies is
asked for again. A refusal is asked again after `retry_after_s`, at most `MAX_REFUSALS` times; a request over a limit of
its tenant is given up, unless `retry_limited`, and with it the rest of its session.

With prefill replicas, a decode replica to which a decision names one leaves the prompt to it: a leg of one token, whose
blocks are kept until they are fetched, and then the request with all but the last token computed elsewhere. Whatever
goes wrong with a leg, the decode replica computes the prompt itself.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from functools import partial
from typing import Any

import msgspec

from pointsman.contract.events import Finished, FirstToken, RequestUsage
from pointsman.contract.priority import engine_priority
from pointsman.contract.registration import leg_id
from pointsman.engine.sim.model import SimRequest, StepResult
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import CLASS_NAMES, RequestFeatures
from pointsman.router.requests.hold_queue import Held
from pointsman.simulator.clock import VirtualClock
from pointsman.simulator.edge import Edge, Placed
from pointsman.simulator.engines import Engines
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.measure import Counts, Served, Summary, by_tenant, summarise
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.routers import VirtualRouters
from pointsman.simulator.settings import FleetSettings, Restart
from pointsman.simulator.tenants import NO_TENANTS, TenantSet, kept_apart
from pointsman.simulator.trace import Session, Trace, Turn

MAX_REFUSALS = 600
"""A client that is told to come back later gives up after so many times."""

NO_REPLICA_RETRY_S = 1.0
"""Seconds that a client waits after HAProxy's 503 when every replica is down."""


class Request(msgspec.Struct, gc=False):
    """One turn on its way."""

    id: str
    session: Session
    index: int
    turn: Turn
    arrived_s: float
    features: RequestFeatures
    router: int = 0
    replica: int = -1
    sent_s: float = 0.0
    refusals: int = 0
    first_s: float = 0.0
    cached: int = 0
    prefill: int = NO_SLOT
    """The replica that computes the prompt, or did, where that is another."""
    attempt: int = 0
    """Decisions so far."""
    waited_s: float = 0.0
    """Time in queues of routers."""


class VirtualFleet:
    """One run: a trace, a policy, a seed. Use once."""

    def __init__(
        self,
        trace: Trace,
        policy: dict[str, Any],
        settings: FleetSettings,
        *,
        seed: int,
        tenants: TenantSet = NO_TENANTS,
    ) -> None:
        """Raises ExperimentError when a turn could never fit a replica, PolicyConfigError for a bad policy."""
        tenants.check_pools([settings.pool(index) for index in range(settings.replicas)])
        trace = kept_apart(trace, tenants.isolated)
        longest = max(turn.prompt_tokens + turn.output_tokens for session in trace.sessions for turn in session.turns)
        if longest > settings.kv_tokens - settings.kv_tokens % trace.block_size:
            raise ExperimentError(
                "kv_tokens", settings.kv_tokens, f"{longest} or more, the tokens of the longest turn of {trace.name}"
            )
        self._trace = trace
        self._settings = settings
        self._rng = random.Random(f"{seed} fleet")
        self._replicas = [VirtualReplica(index, settings, trace) for index in range(settings.total)]
        self._clock = VirtualClock()
        self._engines = Engines(self._clock, self._stepped)
        self._routers = VirtualRouters(
            policy, self._replicas, settings, self._clock, self._let_go, seed=seed, tenants=tenants
        )
        self._flying: dict[str, Request] = {}
        self._legs: dict[str, Request] = {}
        """Prefill legs in some engine."""
        self._served: list[Served] = []
        self._counts = Counts(reasons=Counter())

    def run(self) -> Summary:
        """Plays the trace to its end."""
        for session in self._trace.sessions:
            self._clock.at(session.start_s, partial(self._begin_turn, session, 0))
        for restart in self._settings.restarts:
            self._clock.at(restart.at_s, partial(self._kill, restart))
        self._clock.run()
        assert not self._flying and not self._legs, "requests were lost"
        if not self._served:
            raise ExperimentError("tenants", "", "limits and pools that let a request through", "nothing was served")
        self._counts.preemptions = sum(replica.preemptions for replica in self._replicas)
        prefilling = self._replicas[self._settings.replicas :] or self._replicas
        names = dict.fromkeys(session.tenant for session in self._trace.sessions)
        parts = {}
        if self._trace.has_tenants:
            weights = {name: self.edges[0].core.tenants.of(name).weight for name in names}
            parts = by_tenant(self._served, self._counts, weights, self._trace.sessions[-1].start_s)
        return summarise(self._served, [replica.prefill_tokens for replica in prefilling], self._counts, parts)

    @property
    def served(self) -> list[Served]:
        """In the order of their end."""
        return self._served

    @property
    def edges(self) -> list[Edge]:
        return self._routers.edges

    # Clients

    def _begin_turn(self, session: Session, index: int, now_s: float) -> None:
        turn = session.turns[index]
        features = RequestFeatures(
            request_id=f"q{self._clock.number()}",
            path="/v1/chat/completions",
            session=session.id,
            model=session.model,
            tenant=session.tenant,
            priority=self._routers.class_of(session.tenant, session.priority),
            body_bytes=self._trace.body_bytes(turn),
            prefix_keys=self._trace.prefix_keys(turn),
        )
        request = Request(features.request_id, session, index, turn, now_s, features)
        self._flying[request.id] = request
        self._ask(request, now_s)

    def _ask(self, request: Request, now_s: float) -> None:
        """One lookup."""
        request.router = self._rng.randrange(len(self.edges)) if len(self.edges) > 1 else 0
        request.attempt += 1
        decision = self._routers.ask(request.router, request.features, now_s)
        if isinstance(decision, Held):
            self._counts.held += 1
        else:
            self._take(request.id, decision, now_s)

    def _let_go(self, held: Held, decision: Decision, now_s: float) -> None:
        """A router answers a request that it held."""
        self._flying[held.features.request_id].waited_s += now_s - held.since_s
        self._take(held.features.request_id, decision, now_s)

    def _take(self, request_id: str, decision: Decision, now_s: float) -> None:
        """Outcome of an answer, as HAProxy sees it."""
        request = self._flying[request_id]
        self._counts.reasons[str(decision.reason)] += 1
        if decision.status:
            self._refused(request, decision, now_s)
            return
        if decision.first:
            prefill = int(decision.prefill[1:]) if decision.prefill else NO_SLOT
            placed = Placed(request.features, int(decision.first[1:]), decision.first, prefill)
            self._routers.placed(request.router, placed, now_s)
        replica = self._connect(request, decision)
        if replica is None:
            self._routers.ended(request.router, request.id, now_s, served=False)
            self._clock.at(now_s + NO_REPLICA_RETRY_S, partial(self._ask, request))
            return
        request.replica = replica.index
        if decision.prefill and self._replicas[prefill].up:
            self._send_leg(request, self._replicas[prefill], now_s)
        else:
            self._send(request, now_s)

    def _refused(self, request: Request, decision: Decision, now_s: float) -> None:
        self._routers.refused(request.router, request.id, now_s)
        self._counts.refused += 1
        request.refusals += 1
        counts, limited = self._counts.of(request.session.tenant), decision.reason is Reason.LIMIT
        why = decision.limit.partition(" ")[0] or str(decision.reason)
        counts.refused[why] = counts.refused.get(why, 0) + 1
        if request.refusals > MAX_REFUSALS or (limited and not self._settings.retry_limited):
            unasked = len(request.session.turns) - request.index - 1
            self._counts.abandoned += 1
            counts.abandoned += 1
            counts.unasked += unasked
            del self._flying[request.id]
            return
        self._clock.at(now_s + max(1, decision.retry_after_s), partial(self._ask, request))

    def _connect(self, request: Request, decision: Decision) -> VirtualReplica | None:
        """First choice, second, else by hash among those that accept; None when none does."""
        for name in (decision.first, decision.second):
            if name:
                replica = self._replicas[int(name[1:])]
                if replica.up:
                    return replica
        up = [replica for replica in self._replicas[: self._settings.replicas] if replica.up]
        key = request.session.id or str(request.features.prefix_keys[:1])
        return up[zlib.crc32(key.encode()) % len(up)] if up else None

    def _send(self, request: Request, now_s: float, *, external: int = 0) -> None:
        """To its replica; `external` tokens of the prompt come with it."""
        turn, trace = request.turn, self._trace
        if not external:
            request.prefill = NO_SLOT
        request.sent_s = now_s
        blocks = turn.blocks if trace.reuse_generated else turn.blocks[: turn.prompt_tokens // trace.block_size]
        sent = SimRequest(
            request.id,
            turn.prompt_tokens,
            turn.output_tokens,
            blocks,
            external_tokens=external,
            priority=_engine_priority(request),
        )
        self._engines.add(self._replicas[request.replica], sent, now_s)

    # Prefill legs

    def _send_leg(self, request: Request, prefill: VirtualReplica, now_s: float) -> None:
        turn = request.turn
        request.prefill, request.sent_s = prefill.index, now_s
        leg = leg_id(request.id)
        self._legs[leg] = request
        blocks = turn.blocks[: turn.prompt_tokens // self._trace.block_size]
        sent = SimRequest(leg, turn.prompt_tokens, 1, blocks, kept=True, priority=_engine_priority(request))
        self._engines.add(prefill, sent, now_s)

    def _leg_done(self, leg: str, at_s: float) -> None:
        request = self._legs.pop(leg)
        prefill = self._replicas[request.prefill]
        fetch = partial(self._fetched, request, request.attempt, prefill, prefill.lives)
        self._clock.at(at_s + self._settings.handoff_s(request.turn.prompt_tokens), fetch)

    def _fetched(self, request: Request, attempt: int, prefill: VirtualReplica, life: int, now_s: float) -> None:
        """The decode replica has the KV, or finds that it is gone."""
        if request.attempt != attempt:
            return
        kept = self._engines.let_go(prefill, life, leg_id(request.id), now_s)
        self._counts.handed_over += kept
        self._send(request, now_s, external=request.turn.prompt_tokens if kept else 0)

    def _drop_leg(self, request: Request, now_s: float) -> None:
        """Nobody waits for its leg any more, nor for the KV that one left."""
        if request.prefill != NO_SLOT:
            leg = leg_id(request.id)
            self._legs.pop(leg, None)
            self._engines.abort(self._replicas[request.prefill], leg, now_s)

    # Replicas

    def _stepped(self, replica: VirtualReplica, result: StepResult, at_s: float) -> None:
        for request_id, cached in result.first.items():
            request = self._legs.get(request_id) or self._flying[request_id]
            request.first_s = at_s
            if request.prefill in (NO_SLOT, replica.index):
                request.cached = cached
        self._report(replica, result, at_s)
        for request_id in result.finished:
            if request_id in self._legs:
                self._leg_done(request_id, at_s)
            else:
                self._finish(self._flying.pop(request_id), at_s)

    def _report(self, replica: VirtualReplica, result: StepResult, at_s: float) -> None:
        flying, legs = self._flying, self._legs
        first = []
        for request_id, cached in result.first.items():
            request = legs.get(request_id) or flying[request_id]
            took_ms = (at_s - request.sent_s) * 1000
            first.append(FirstToken(request_id, request.turn.prompt_tokens, cached, took_ms))
        finished, usage = [], []
        for request_id in result.finished:
            leg = legs.get(request_id)
            turn = (leg or flying[request_id]).turn
            finished.append(Finished(request_id, turn.prompt_tokens, 1 if leg else turn.output_tokens))
            usage.append(_usage(leg or flying[request_id], request_id, at_s))
        message = replica.message(result, first, finished, usage)
        if message is not None:
            self._routers.report(replica, message, at_s)

    def _finish(self, request: Request, at_s: float) -> None:
        turn = request.turn
        self._served.append(
            Served(
                request.index, request.arrived_s, request.first_s, at_s,
                turn.prompt_tokens, turn.output_tokens, request.cached, request.replica, request.session.tenant,
                request.features.priority, request.waited_s,
            )
        )  # fmt: skip
        self._routers.ended(request.router, request.id, at_s)
        if request.index + 1 < len(request.session.turns):
            pause_s = request.session.turns[request.index + 1].pause_s
            self._clock.at(at_s + pause_s, partial(self._begin_turn, request.session, request.index + 1))

    # Restarts

    def _kill(self, restart: Restart, now_s: float) -> None:
        replica = self._replicas[restart.replica]
        self._engines.play(replica, now_s)
        replica.up = False
        replica.restart()
        self._clock.at(now_s + restart.noticed_s, partial(self._routers.down, replica))
        self._clock.at(now_s + restart.down_s, partial(self._revive, replica))
        for leg in [leg for leg, request in self._legs.items() if request.prefill == replica.index]:
            self._send(self._legs.pop(leg), now_s)
        for request in [request for request in self._flying.values() if request.replica == replica.index]:
            self._counts.retried += 1
            request.replica = -1
            self._drop_leg(request, now_s)
            self._routers.ended(request.router, request.id, now_s, served=False)
            self._ask(request, now_s)

    def _revive(self, replica: VirtualReplica, now_s: float) -> None:
        replica.up = True
        self._routers.back(replica, now_s)


def _engine_priority(request: Request) -> int:
    """The number by which the request's replica orders it."""
    return engine_priority(CLASS_NAMES[request.features.priority])


def _usage(request: Request, request_id: str, at_s: float) -> RequestUsage:
    """The report of an engine at the end of a request, or of its leg: what it did itself."""
    turn, prompt, cached = request.turn, request.turn.prompt_tokens, request.cached
    if request_id != request.id:
        return RequestUsage(request_id, prompt, cached)
    if request.prefill != NO_SLOT:
        prompt = cached = 0
    return RequestUsage(request_id, prompt, cached, turn.output_tokens, (at_s - request.sent_s) * 1000)
