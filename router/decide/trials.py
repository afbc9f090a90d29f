"""Policies that are tried on live traffic before they are live: a shadow beside the live policy, and a rollout.

`Trials` owns the trials of this edge and connects them to the pipeline: signals that they need are gathered for every
request, so that what they see is whole. Nothing of a trial survives a restart, and no other edge has part in it; a
policy that a rollout promotes is put live as by a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import structlog

from pointsman.contract.events import EngineEvents
from pointsman.policies.lib.pair import PairConfig, best_remote_prefill
from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.considered import Considered, add_prompt
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.decide.live_policies import LivePolicies
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.decide.policy_control import PolicyControl
from pointsman.router.decide.rollout import Plan, Rollout, RolloutState, Verdict
from pointsman.router.decide.shadow import Authorship, Shadow
from pointsman.router.requests.decision_record import ShadowChoice
from pointsman.router.requests.end_of_request import EndOfRequest

log = structlog.get_logger(__name__)


class TrialNews(NamedTuple):
    """Something that happened to a trial, for those who look afterwards."""

    text: str
    policy: str
    author: str = ""


class Trials:
    """The trials of one edge."""

    def __init__(
        self,
        pipeline: Pipeline,
        fleet: FleetState,
        control: PolicyControl,
        ends: EndOfRequest,
        *,
        pair: PairConfig,
        stopwatch: Callable[[], float],
        wall: Callable[[], float],
        on_changed: Callable[[TrialNews], None],
    ) -> None:
        """control: puts a policy live that a rollout promotes. ends: tells a rollout what became of requests.
        stopwatch: seconds, for what a shadow costs.
        wall: seconds since 1970.
        on_changed: called when a trial began, went on or ended.
        """
        self._pipeline = pipeline
        self._fleet = fleet
        self._control = control
        self._ends = ends
        self._pair = pair
        self._stopwatch = stopwatch
        self._wall = wall
        self._on_changed = on_changed
        self.shadow: Shadow | None = None
        """The latest shadow, running or failed; None before the first and after one was taken away."""
        self.rollout: Rollout | None = None
        """The latest rollout, running or over; None before the first."""
        self.rollouts_ended: Counter[RolloutState] = Counter()
        """Rollouts that are over, by how they ended."""
        self._running: Rollout | None = None
        """The rollout that decides; None while none does."""
        self._adds_kv = False
        """Whether every decision of the live policies and of the rollout looks at its prompt."""
        self._adds_adapter = False

    def __repr__(self) -> str:
        return f"Trials({self.shadow!r}, {self.rollout!r})"

    # The shadow

    def start_shadow(self, policies: PolicySet, *, sample: float, author: str, why: str) -> Shadow:
        """Have policies decide beside the live ones from here on, in place of the shadow before.

        sample: share of requests, 0 to 1.
        """
        if self.shadow is not None:
            self.shadow.policies.close()
        self.shadow = Shadow(
            policies,
            replicas=self._fleet.replicas,
            sessions=self._fleet.sessions,
            stopwatch=self._stopwatch,
            sample=sample,
            put=Authorship(author=author, why=why, at_s=self._wall()),
        )
        self._connect()
        said = f": {why}" if why else ""
        self._tell(f"policy {policies.main.name} is the shadow{said}", policies, author)
        return self.shadow

    def stop_shadow(self, author: str) -> bool:
        """Take the shadow away; False where there is none."""
        shadow, self.shadow = self.shadow, None
        if shadow is None:
            return False
        shadow.policies.close()
        self._connect()
        self._tell(f"policy {shadow.policies.main.name} is no longer the shadow", shadow.policies, author)
        return True

    # The rollout

    @property
    def rolls_out(self) -> bool:
        """Whether a rollout decides a share of new sessions."""
        return self._running is not None

    def start_rollout(self, policies: PolicySet, plan: Plan, now_s: float, *, author: str, why: str) -> Rollout:
        """Have policies decide a share of new sessions, and more as long as they are no worse; none is running."""
        assert self._running is None, "a rollout is ended before another one begins"
        revision = self._control.try_out(policies, author=author, why=f"rollout: {why}" if why else "rollout")
        rollout = Rollout(
            LivePolicies(policies, revision.revision),
            self._pipeline.choice.live,
            plan,
            is_known=self._is_known,
            put=Authorship(author=author, why=why, at_s=self._wall()),
            now_s=now_s,
        )
        self.rollout = self._running = rollout
        self._connect()
        said = f": {why}" if why else ""
        self._tell(f"rollout of policy {_step(rollout)}{said}", policies, author)
        return rollout

    def stop_rollout(self, author: str) -> bool:
        """End the rollout; False where none is running."""
        if self._running is None:
            return False
        self._end_rollout(self._running, RolloutState.ABORTED, f"{author or 'somebody'} ended it", author)
        return True

    def step(self, now_s: float) -> None:
        """Look at the rollout; called a few times a second."""
        rollout = self._running
        if rollout is None:
            return
        verdict = rollout.step(now_s)
        policies = rollout.candidate.policies
        if verdict is Verdict.STEPPED:
            self._tell(f"rollout of policy {_step(rollout)}", policies)
        elif verdict is Verdict.RETURN:
            self._end_rollout(rollout, RolloutState.RETURNED, rollout.why_ended)
        elif verdict is Verdict.PROMOTE:
            self._running = None
            self.rollouts_ended[RolloutState.PROMOTED] += 1
            why = f"rollout promoted: {rollout.put.why}" if rollout.put.why else "rollout promoted"
            self._control.put(policies.describe(), author=rollout.put.author, why=why)
            self._tell(f"rollout of policy {policies.main.name} is over: it is live", policies)
            policies.close()

    def report(self, events: EngineEvents) -> None:
        """Take over what an engine reported of requests."""
        if self._running is not None:
            self._running.report(events)

    def _end_rollout(self, rollout: Rollout, state: RolloutState, why: str, author: str = "") -> None:
        rollout.end(state, why)
        self._running = None
        self.rollouts_ended[state] += 1
        self._connect()
        policies = rollout.candidate.policies
        policies.close()
        log.warning("rollout ended", policy=policies.main.name, state=state, why=why)
        self._tell(f"rollout of policy {policies.main.name} {state}: {why}", policies, author)

    def _is_known(self, session: str) -> bool:
        """Whether a session was here before."""
        fleet = self._fleet
        return fleet.sessions.state(session) is not None or fleet.kv.conversations.find(session, (), -1) is not None

    # Hooks

    def policy_changed(self) -> None:
        """Another policy is live: what was compared with the one before is over."""
        if self.shadow is not None:
            self.shadow.begin_anew(self._wall())
        if self._running is not None:
            self._end_rollout(self._running, RolloutState.OVERTAKEN, "another policy went live")
        self._connect()

    def watch(self, features: RequestFeatures, considered: Considered, now_s: float) -> ShadowChoice | None:
        """Add what trials need to a decision of the live policies or of the rollout, and ask the shadow."""
        revision = considered.active.revision
        if not revision:
            return None  # the request named its policy, or generates nothing
        if self._adds_kv and considered.prompt is None:
            self._add_kv(features, considered, now_s)
        if self._adds_adapter and considered.candidates.adapter is None:
            adapters = self._fleet.adapters
            if features.model in self._fleet.replicas.memberships.adapters():
                considered.candidates.adapter = adapters.signals(features.model)
        shadow = self.shadow
        if shadow is None or not shadow.is_running or revision != self._pipeline.choice.live.revision:
            return None
        choice = shadow.compare(features, considered, now_s)
        if not shadow.is_running:
            self._shadow_failed(shadow)
        return choice

    def _add_kv(self, features: RequestFeatures, considered: Considered, now_s: float) -> None:
        """Look at the prompt where the policy did not: backlogs and conversations are those of all requests."""
        candidates, kv = considered.candidates, self._fleet.kv
        considered.prompt = kv.read(features, now_s, considered.longest)
        add_prompt(candidates, considered.prompt, kv.columns.signals)
        prefills = self._fleet.replicas.memberships.of(features.model).prefills_of_all
        if prefills is not None and self.shadow is not None:
            tokens = considered.prompt.tokens
            candidates.remote_prefill = best_remote_prefill(self._pair, candidates, prefills, tokens, self.shadow.rng)

    def _shadow_failed(self, shadow: Shadow) -> None:
        name = shadow.policies.main.name
        log.error("shadow policy is switched off", policy=name, why=shadow.error)
        self._connect()
        self._tell(f"shadow policy {name} is switched off: {shadow.error}", shadow.policies)

    def _tell(self, text: str, policies: PolicySet, author: str = "") -> None:
        self._on_changed(TrialNews(text, policies.main.name, author))

    def _connect(self) -> None:
        """Have what the trials need gathered, and the pipeline ask them; nothing while there are none."""
        choice, rollout = self._pipeline.choice, self._running
        shadow = self.shadow if self.shadow is not None and self.shadow.is_running else None
        needs, pin_ttl_s = Needs.NOTHING, None
        if shadow is not None:
            needs |= shadow.policies.needs
        if rollout is not None:
            needs |= rollout.candidate.policies.needs
            pin_ttl_s = rollout.candidate.pin_ttl_s
        choice.set_chooser(rollout, needs, pin_ttl_s)
        is_running = shadow is not None or rollout is not None
        self._adds_kv = is_running and choice.by_kv
        self._adds_adapter = is_running and Needs.ADAPTER in choice.needs
        if is_running:
            for policies in (choice.live, rollout.candidate if rollout is not None else choice.live):
                policies.gather(choice.needs, choice.needs)
        self._pipeline.watcher = self if is_running else None
        self._ends.watcher = rollout


def _step(rollout: Rollout) -> str:
    return f"{rollout.candidate.main.name} decides {rollout.share:.0%} of new sessions"
