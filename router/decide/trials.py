"""Policies that are tried on live traffic before they are live: a shadow beside the live policy.

`Trials` owns the trials of this edge and connects them to the pipeline: signals that they need are gathered for every
request, so that what they see is whole. Nothing of a trial survives a restart, and no other edge has part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import structlog

from pointsman.policies.lib.pair import PairConfig, best_remote_prefill
from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.considered import Considered, add_prompt
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.decide.shadow import Authorship, Shadow, ShadowPhase
from pointsman.router.requests.decision_record import ShadowChoice

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
        *,
        pair: PairConfig,
        stopwatch: Callable[[], float],
        wall: Callable[[], float],
        on_changed: Callable[[TrialNews], None],
    ) -> None:
        """stopwatch: seconds, for what a shadow costs.
        wall: seconds since 1970.
        on_changed: called when a trial began, went on or ended.
        """
        self._pipeline = pipeline
        self._fleet = fleet
        self._pair = pair
        self._stopwatch = stopwatch
        self._wall = wall
        self._on_changed = on_changed
        self.shadow: Shadow | None = None
        """The latest shadow, running or failed; None before the first and after one was taken away."""
        self._needs = Needs.NOTHING
        self._by_kv = False

    def __repr__(self) -> str:
        return f"Trials({self.shadow!r})"

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
        self._on_changed(TrialNews(f"policy {policies.main.name} is the shadow{said}", policies.main.name, author))
        return self.shadow

    def stop_shadow(self, author: str) -> bool:
        """Take the shadow away; False where there is none."""
        shadow, self.shadow = self.shadow, None
        if shadow is None:
            return False
        shadow.policies.close()
        self._connect()
        name = shadow.policies.main.name
        self._on_changed(TrialNews(f"policy {name} is no longer the shadow", name, author))
        return True

    # Hooks

    def policy_changed(self) -> None:
        """Another policy is live: what was compared with the one before is over."""
        if self.shadow is not None:
            self.shadow.begin_anew(self._wall())
        self._connect()

    def watch(self, features: RequestFeatures, considered: Considered, now_s: float) -> ShadowChoice | None:
        """Add what trials need to a decision of the live policies, and ask the shadow."""
        if not considered.active.revision:
            return None  # not the live policies decided
        if self._by_kv:
            self._add_kv(features, considered, now_s)
        if Needs.ADAPTER in self._needs and considered.candidates.adapter is None:
            adapters = self._fleet.adapters
            if features.model in self._fleet.replicas.memberships.adapters():
                considered.candidates.adapter = adapters.signals(features.model)
        shadow = self.shadow
        if shadow is None:
            return None
        choice = shadow.compare(features, considered, now_s)
        if shadow.state is ShadowPhase.FAILED:
            self._shadow_failed(shadow)
        return choice

    def _add_kv(self, features: RequestFeatures, considered: Considered, now_s: float) -> None:
        """Look at the prompt where the live policy did not: backlogs and conversations are those of all requests."""
        candidates, kv = considered.candidates, self._fleet.kv
        if considered.prompt is None:
            considered.prompt = kv.read(features, now_s, considered.longest)
            add_prompt(candidates, considered.prompt, kv.columns.signals)
            prefills = self._fleet.replicas.memberships.of(features.model).prefills_of_all
            if prefills is not None and self.shadow is not None:
                candidates.remote_prefill = best_remote_prefill(
                    self._pair, candidates, prefills, considered.prompt.tokens, self.shadow.rng
                )

    def _shadow_failed(self, shadow: Shadow) -> None:
        name = shadow.policies.main.name
        log.error("shadow policy is switched off", policy=name, why=shadow.error)
        self._connect()
        self._on_changed(TrialNews(f"shadow policy {name} is switched off: {shadow.error}", name))

    def _connect(self) -> None:
        """Have what the trials need gathered, and the pipeline ask them; nothing while there are none."""
        running = self.shadow is not None and self.shadow.state is ShadowPhase.RUNNING
        self._needs = self.shadow.policies.needs if running and self.shadow is not None else Needs.NOTHING
        self._by_kv = bool(self._needs & (Needs.PREFIX | Needs.KV))
        self._pipeline.choice.set_chooser(None, self._needs)
        self._pipeline.watcher = self if running else None
