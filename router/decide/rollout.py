"""A policy that decides a share of new sessions, and more of them as long as it is no worse than the live one.

`Rollout` owns the assignment of sessions to the two policies and what became of their requests. A session goes by its
hash, a request without one by its own; who began under one policy stays there, whatever the share becomes. Compared are
sessions that began in the present step: chance alone put them where they are, so that a difference is the policy's.
Sessions that the router knew before stay with the live policy and are not compared.

The owner calls `step` a few times a second; what follows from its verdict (promotion, return) is the owner's to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

import msgspec
import xxhash

from pointsman.contract.events import EngineEvents
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.arms import Arm, Bounds
from pointsman.router.decide.considered import ActivePolicy
from pointsman.router.decide.live_policies import LivePolicies
from pointsman.router.decide.shadow import Authorship
from pointsman.router.requests.end_line import Line

MAX_SESSIONS = 200_000
"""Sessions whose policy is remembered while a rollout runs, some 20 MB; beyond, the oldest is forgotten."""

MAX_FLYING = 65_536
"""Requests whose end is waited for; beyond, the oldest is not compared."""

ENGINE_WORDS_S = 2.0
"""Seconds that an ended request waits for its engine to report its first token."""

HASH_SEED = 7
"""Apart from the hashes by which policies place sessions: a share of sessions is no share of replicas."""


class RolloutState(StrEnum):
    """Stage of a rollout."""

    RUNNING = "running"
    PROMOTED = "promoted"
    """The policy is live."""
    RETURNED = "returned"
    """The policy was worse than its bounds; the live one decides all sessions again."""
    ABORTED = "aborted"
    """Somebody ended the rollout."""
    OVERTAKEN = "overtaken"
    """Another policy went live meanwhile."""


ROLLOUT_ENDS = tuple(state for state in RolloutState if state is not RolloutState.RUNNING)
"""States of a rollout that is over."""


class Verdict(StrEnum):
    """Outcome of one look at a rollout."""

    GO_ON = "go on"
    STEPPED = "stepped"
    PROMOTE = "promote"
    RETURN = "return"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of a rollout, and what it must keep."""

    steps: tuple[float, ...]
    """Shares of new sessions, ascending, each above 0 and below 1; after the last the policy is live."""
    step_s: float = 300.0
    bounds: Bounds = Bounds()
    min_requests: int = 100
    """Requests of each policy that must have ended before a step is over."""


class _Began(msgspec.Struct, gc=False):
    """Where a session began."""

    by_candidate: bool
    step: int
    """Step in which it began; -1 for one that was there before."""


class _Flying(msgspec.Struct, gc=False):
    """A request that is compared."""

    arm: Arm
    ttft_ms: float = 0.0
    """As the engine reported it; 0 while it has not."""
    ended: bool = False


BEFORE = -1
"""Step of sessions that began before the rollout."""


class Rollout:
    """One policy document on its way."""

    def __init__(
        self,
        candidate: LivePolicies,
        live: LivePolicies,
        plan: Plan,
        *,
        is_known: Callable[[str], bool],
        put: Authorship,
        now_s: float,
    ) -> None:
        """candidate: the policies that are rolled out; the owner closes them. live: those that decide all else.
        is_known: whether the router knows a session from before.
        """
        self.candidate = candidate
        self.live = live
        self.plan = plan
        self.put = put
        self._is_known = is_known
        self.state = RolloutState.RUNNING
        self.why_ended = ""
        self.step_number = 0
        """Index in the steps of the plan."""
        self.step_began_s = now_s
        self.candidate_arm = Arm()
        self.live_arm = Arm()
        self.not_compared = 0
        """Requests of sessions that began before the rollout, or in an earlier step."""
        self._began: dict[str, _Began] = {}
        self._flying: dict[str, _Flying] = {}
        self._ended: deque[tuple[float, str]] = deque()

    def __repr__(self) -> str:
        return f"Rollout({self.candidate.main.name}, {self.share:g}, {self.state})"

    @property
    def share(self) -> float:
        """Share of new sessions that the candidate decides."""
        if self.state is RolloutState.RUNNING:
            return self.plan.steps[self.step_number]
        return 1.0 if self.state is RolloutState.PROMOTED else 0.0

    # Choosing

    def choose(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy of a request's session; the request is compared where its session began in this step."""
        began = self._assign(features)
        if features.session:
            self._remember(features.session, began)
        if began.step != self.step_number:
            self.not_compared += 1
        elif features.request_id:
            flying = self._flying
            if len(flying) >= MAX_FLYING:
                del flying[next(iter(flying))]
            flying[features.request_id] = _Flying(self.candidate_arm if began.by_candidate else self.live_arm)
        return (self.candidate if began.by_candidate else self.live).of(features.model)

    def peek(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy that would decide a request; nothing is remembered of it."""
        return (self.candidate if self._assign(features).by_candidate else self.live).of(features.model)

    def _assign(self, features: RequestFeatures) -> _Began:
        session = features.session
        if session:
            began = self._began.get(session)
            if began is not None:
                return began
            if self._is_known(session):
                return _Began(False, BEFORE)
        name = session or features.request_id
        drawn = xxhash.xxh64_intdigest(name.encode("utf-8", "surrogateescape"), seed=HASH_SEED) / 2**64
        return _Began(drawn < self.plan.steps[self.step_number], self.step_number)

    def _remember(self, session: str, began: _Began) -> None:
        table = self._began
        if session not in table:
            if len(table) >= MAX_SESSIONS:
                del table[next(iter(table))]
            table[session] = began

    # What became of requests

    def ended(self, line: Line, now_s: float) -> None:
        """Count the end of a request that is compared, as HAProxy saw it."""
        flying = self._flying.get(line.id)
        if flying is None or flying.ended:
            return
        flying.arm.ended(line.st, line.ts)
        took_ms = float(line.ttft) if line.ttft.isdecimal() else flying.ttft_ms
        if took_ms > 0:
            flying.arm.first_token(took_ms)
            del self._flying[line.id]
        else:
            flying.ended = True
            self._ended.append((now_s, line.id))

    def report(self, events: EngineEvents) -> None:
        """Take over first tokens that an engine reported."""
        for first in events.first:
            flying = self._flying.get(first.id)
            if flying is not None and first.ttft_ms > 0:
                flying.ttft_ms = first.ttft_ms
                if flying.ended:
                    flying.arm.first_token(first.ttft_ms)
                    del self._flying[first.id]

    # Time

    def step(self, now_s: float) -> Verdict:
        """Look whether the candidate is worse than its bounds, and whether the step is over."""
        while self._ended and self._ended[0][0] < now_s - ENGINE_WORDS_S:
            _, request_id = self._ended.popleft()
            flying = self._flying.get(request_id)
            if flying is not None and flying.ended:
                del self._flying[request_id]
        bounds, candidate, live = self.plan.bounds, self.candidate_arm, self.live_arm
        why = bounds.exceeded(candidate, live, over=False)
        if not why:
            if now_s < self.step_began_s + self.plan.step_s or self.waits_for:
                return Verdict.GO_ON
            why = bounds.exceeded(candidate, live, over=True)
        if why:
            self.end(RolloutState.RETURNED, why)
            return Verdict.RETURN
        if self.step_number + 1 == len(self.plan.steps):
            self.end(RolloutState.PROMOTED, "")
            return Verdict.PROMOTE
        self.step_number += 1
        self.step_began_s = now_s
        self.candidate_arm, self.live_arm = Arm(), Arm()
        self._flying.clear()
        self._ended.clear()
        return Verdict.STEPPED

    def end(self, state: RolloutState, why: str) -> None:
        """End the rollout; the arms stay to be looked at."""
        self.state, self.why_ended = state, why
        self._began.clear()
        self._flying.clear()
        self._ended.clear()

    @property
    def waits_for(self) -> str:
        """Requests that are missing for a verdict, as a sentence; empty where there are enough."""
        arms = (self.candidate_arm, self.live_arm)
        ended = min(arm.requests for arm in arms)
        if ended < self.plan.min_requests:
            return f"{ended} of {self.plan.min_requests} requests have ended under each policy"
        measured = min(arm.measured for arm in arms)
        # Where nobody measures first tokens, errors alone decide.
        if measured < self.plan.min_requests and any(arm.measured for arm in arms):
            return f"{measured} of {self.plan.min_requests} times to first token are known under each policy"
        return ""
