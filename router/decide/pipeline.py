"""One straight, synchronous line: features -> gather -> rank -> reserve -> answer.

`Pipeline` owns the live policies and writes what a decision changes: a reservation, where the policy pins the session's
home, and for policies that go by KV what is expected of the chosen replica. It awaits nothing, so no other task runs
between reading a load and reserving it.

One pure step, `_consider`, gathers the candidates, asks the policy and forms the answer. `decide` applies it, `explain`
renders it for people. Requests that should wait for room are answered with `hold_ms`; `router/decide/hold.py` keeps
them and asks again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, AdapterSignals, Candidates
from pointsman.policies.decision import Decision, Ranked, Reason
from pointsman.policies.lib.pair import Pair, Pairing, best_remote_prefill, choose_prefill
from pointsman.policies.policy import Context, Policy
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.request import BATCH, CLASS_NAMES, Naming, RequestFeatures
from pointsman.router.counts.requests import DecisionMetrics
from pointsman.router.decide.considered import ActivePolicy, Considered, Watcher, add_prompt, copied_dice
from pointsman.router.decide.explain import Explanation, explain, explain_none
from pointsman.router.decide.features import BYTES_PER_TOKEN, expected_tokens
from pointsman.router.decide.fleet_state import DEFAULT_SETTINGS, DecisionSettings, FleetState
from pointsman.router.decide.gathered import gathered
from pointsman.router.decide.limited import limit
from pointsman.router.decide.live_policies import LivePolicies, PolicyChoice
from pointsman.router.decide.model_recall import ModelRecall
from pointsman.router.decide.moved_sessions import as_ordered
from pointsman.router.decide.recorder import Recorder
from pointsman.router.decide.version_placer import VersionPlacer
from pointsman.router.decide.waiting import behind_others, count_placed, is_under_way, refusal_of, refused
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replica import ANY_MODEL
from pointsman.router.kv.parts import MAX_PROMPT_TOKENS, Prompt
from pointsman.router.requests.hold_queue import HoldQueue

RANKED = 2
"""HAProxy takes a first and a second choice; a third failure in a row is redispatched by its own balancing."""

RETRY_AFTER_S = 1
"""For a model whose replicas are all away: a check that passes brings one back within that time."""


class Pipeline:
    """Decides where requests go."""

    def __init__(
        self,
        policies: PolicySet,
        fleet: FleetState,
        *,
        metrics: DecisionMetrics,
        rng: random.Random,
        settings: DecisionSettings = DEFAULT_SETTINGS,
        holds: HoldQueue,
    ) -> None:
        """A pipeline over the state of one edge.

        policies: those that decide first; the pipeline closes them when others take their place.
        rng: the dice of all decisions.
        holds: where requests wait for room.
        """
        self.choice = PolicyChoice(policies, override_header=settings.override_header)
        """Which policy decides a request."""
        self.watcher: Watcher | None = None
        """Observer of decisions beside the live policy; None where nobody looks."""
        self._replicas = fleet.replicas
        self._memberships = fleet.replicas.memberships
        self._requests = fleet.requests
        self._load = fleet.load
        self._sessions = fleet.sessions
        self._kv = fleet.kv
        self._adapters = fleet.adapters
        self._outliers = fleet.outliers
        self._recorder: Recorder | None = None
        if fleet.decisions is not None:
            self._recorder = Recorder(fleet.decisions, fleet.replicas, fleet.kv.columns, holds)
        self._context_tokens = fleet.context_tokens
        self.limits = fleet.limits
        self._pools = fleet.pools
        self._metrics = metrics
        self._rng = rng
        self._pair_config = settings.pair
        self._silence_ms = {model: round(1000 * seconds) for model, seconds in settings.silence_s.items()}
        self._recall = ModelRecall(fleet.replicas, fleet.sessions, fleet.kv)
        self._versions = VersionPlacer(fleet)
        self.holds = holds

    @property
    def policy(self) -> Policy:
        """The live policy for every model that has none of its own."""
        return self.choice.main.policy

    @property
    def pins(self) -> bool:
        """Whether a live policy pins sessions."""
        return self.choice.pin_ttl_s is not None

    def swap_policies(self, policies: PolicySet, revision: int = 0) -> None:
        """Puts built policies live, then closes those they replace."""
        old = self.choice.live
        self.choice.put(LivePolicies(policies, revision))
        old.policies.close()

    def recall_model(self, session: str, naming: Naming, now_s: float) -> str | None:
        """The model of a request that does not show it.

        session: the request's session; empty without one.
        naming: why the model is not shown.
        "" where any replica may serve the request; None where nothing tells the model.
        """
        choice = self.choice
        return self._recall.model_of(session, naming, now_s, pin_ttl_s=choice.pin_ttl_s, by_kv=choice.by_kv)

    def decide(self, features: RequestFeatures, now_s: float, *, its_turn: bool = False) -> Decision:
        """Chooses replicas for a request, reserves and pins.

        its_turn: the request was held, and none that is held stands before it.
        `first` is empty when no replica is eligible; `status` is set when the request is refused. With `hold_ms` the
        request should wait: nothing was reserved and nothing counted.
        """
        limits = self.limits
        if limits.active:
            over = limit(limits, features, now_s)
            if over is not None:
                self.count_refusal(features, over, now_s)
                return over
        choice = self.choice
        active = choice.main
        if choice.chooser is not None or features.policy or not features.generates:
            active = choice.of(features, now_s)
        members = self.members_of(features)
        recorder = self._recorder if features.request_id else None
        if features.naming or not len(members.slots):
            if not its_turn and features.model in self.holds.models and not features.naming:
                behind = behind_others(active.admission, features, self.holds)
                if behind is not None:
                    return behind
            decision = self._unplaceable(features)
            if recorder is not None:
                recorder.unplaceable(features, decision, members, now_s)
        else:
            considered = self._consider(active, features, members, now_s, self._rng, RANKED, its_turn)
            decision, refusal = considered.decision, considered.refusal
            if decision.hold_ms:
                return decision
            watcher = self.watcher
            beside = None if watcher is None else watcher.watch(features, considered, now_s)
            # What the decision saw is recorded before the decision changes it.
            record = None if recorder is None else recorder.considered(features, considered, members, now_s, beside)
            if refusal is None:
                if features.request_id:
                    count_placed(self.holds.shares, features, considered, members, self._load)
                predicted = self._apply(features, considered, now_s)
                if record is not None:
                    record.predicted_cached = predicted
            elif refusal.wait_s > 0:
                self.holds.count_overflow(features.priority)
        self._metrics.by_reason[active.name, decision.reason] += 1
        return decision

    def explain(self, features: RequestFeatures, now_s: float) -> Explanation:
        """Return the answer that `decide` would give, with its signals; reserves, pins and counts nothing."""
        active, members = self.choice.peek(features, now_s), self.members_of(features)
        if features.naming or not len(members.slots):
            return explain_none(active.policy, self._unplaceable(features), self._replicas, members)
        # A policy may keep a turn and draws dice: copies are asked, so that explaining moves neither.
        twin, rng = ActivePolicy(copy.deepcopy(active.policy)), copied_dice(self._rng)
        considered = self._consider(twin, features, members, now_s, rng, len(members.slots), its_turn=False)
        return explain(features, considered, self._replicas, members)

    def gather(self, features: RequestFeatures, now_s: float) -> Candidates:
        """The candidates that a policy would be given for a request; at least one replica is eligible."""
        active, members = self.choice.peek(features, now_s), self.members_of(features)
        twin = ActivePolicy(copy.deepcopy(active.policy))
        return self._consider(twin, features, members, now_s, copied_dice(self._rng), RANKED, its_turn=False).candidates

    def count_refusal(self, features: RequestFeatures, refusal: Decision, now_s: float) -> None:
        """Counts a refusal that `decide` formed earlier, when its request is answered with it."""
        active = self.choice.peek(features, now_s)
        self._metrics.decided(active.name, refusal.reason)
        if self._recorder is not None and features.request_id:
            self._recorder.refused(features, refusal, active.name, active.revision, now_s)

    def members_of(self, features: RequestFeatures) -> Membership:
        """The replicas that may serve a request."""
        if features.alias:
            members = self._memberships.of_alias(features.model, features.alias)
        else:
            members = self._memberships.of(features.model)
        pools = self._pools
        return pools.narrowed(members, features.tenant) if pools.active else members

    def is_under_way(self, features: RequestFeatures, now_s: float) -> bool:
        """Whether a request goes on with a session that was served before, as far as the live policy goes by that."""
        longest = self._context_tokens(features.model) or MAX_PROMPT_TOKENS
        return is_under_way(features, now_s, self.choice, self._sessions, self._kv, longest)

    def describe(self) -> Mapping[str, object]:
        """The live document, defaults filled in."""
        return self.choice.live.policies.describe()

    # Considering: nothing changes

    def _consider(
        self,
        active: ActivePolicy,
        features: RequestFeatures,
        eligible: Membership,
        now_s: float,
        rng: random.Random,
        limit: int,
        its_turn: bool,
    ) -> Considered:
        """Gathers the candidates, asks the policy and forms the answer.

        eligible: the replicas that may serve the request's model, at least one.
        limit: how many places of the ranking are wanted.
        """
        members = eligible
        if self._outliers.demoted:
            members = self._outliers.narrowed(members, features.session, rng)
        longest = self._context_tokens(features.model) or MAX_PROMPT_TOKENS
        prompt = self._kv.read(features, now_s, longest) if active.by_kv else None
        candidates = self._gather(active, features, members, prompt, now_s)
        if prompt is not None and members.prefills_of_all is not None:
            candidates.remote_prefill = best_remote_prefill(
                self._pair_config, candidates, members.prefills_of_all, prompt.tokens, rng
            )
        context, holds = Context(now_s, rng, limit), self.holds
        if holds.held and not its_turn:
            known = candidates.home != NO_SLOT or candidates.pin != NO_SLOT
            context.waiting = holds.has_waiting(self.members_of, eligible, features, under_way=known)
        refusal = active.policy.admit(features, candidates, context)
        if refusal is None and (active.admission is not None or features.priority == BATCH):
            refusal = refusal_of(features, active, candidates, context, eligible, self._load, holds.shares)
        if refusal is not None:
            decision = refused(refusal, may_wait=its_turn or holds.has_place(features))
            return Considered(active, longest, prompt, candidates, context, decision, refusal)
        ranked = active.policy.rank(features, candidates, context)
        if features.priority == BATCH:
            ranked = gathered(ranked, candidates, self._load, active.admission)
        if self._sessions.ordered and features.generates:
            ranked = as_ordered(features.session, self._sessions, self._replicas, eligible, ranked)
        pair = None
        if members.prefills is not None and features.generates:
            pair = self._pair(members, ranked[0].slot, features, candidates, rng, longest)
        decision = self._placement(features, candidates, ranked, pair)
        return Considered(active, longest, prompt, candidates, context, decision, None, ranked, pair)

    def _gather(
        self, active: ActivePolicy, features: RequestFeatures, members: Membership, prompt: Prompt | None, now_s: float
    ) -> Candidates:
        """The members with exactly the signals that the policy declared."""
        pin = NO_SLOT
        if features.session and active.pins:
            home = self._sessions.get(features.session, now_s, active.policy.pin_ttl_s)
            if home is not None:
                replica = self._replicas.get(home)
                # A pin to a replica that left is still a pin: the policy tells "moved" from "new" by it.
                pin = replica.slot if replica is not None else GONE_SLOT
        candidates = Candidates(
            membership=members.token,
            slots=members.slots,
            ids=self._replicas.ids,
            in_flight=self._load.in_flight,
            in_flight_tokens=self._load.in_flight_tokens,
            pin=pin,
            adapter=self._adapter(features.model) if active.by_adapter else None,
        )
        if prompt is not None:
            add_prompt(candidates, prompt, self._kv.columns.signals)
        elif len(members.slots) == len(self._replicas):
            # Kept as requests come and go; the sum over a part of the fleet is computed where it is wanted.
            candidates.counted_in_flight = self._load.total_in_flight
        return candidates

    def _pair(
        self,
        members: Membership,
        decode: int,
        features: RequestFeatures,
        candidates: Candidates,
        rng: random.Random,
        longest: int,
    ) -> Pair | None:
        """Return the pair that computes the prompt for the slot `decode`; None where the slot has no decode replica."""
        assert members.prefills is not None
        prefills = members.prefills.get(decode)
        if prefills is None:
            return None
        # A policy that does not look at prompts has no prediction; their bytes stand for one.
        arrived_bytes = features.body_bytes - features.missing_bytes
        tokens = candidates.prompt_tokens or min(arrived_bytes // BYTES_PER_TOKEN, longest)
        return choose_prefill(self._pair_config, candidates, decode, prefills, tokens, rng)

    def _placement(
        self, features: RequestFeatures, candidates: Candidates, ranked: Sequence[Ranked], pair: Pair | None
    ) -> Decision:
        """The answer for a request that is placed."""
        ids, best = candidates.ids, ranked[0]
        first, second = ids[best.slot], ids[ranked[1].slot] if len(ranked) > 1 else ""
        once = self._outliers.budget.exhausted
        silence_ms = self._silence_ms.get(features.model, 0) if self._silence_ms else 0
        real_model = features.model if features.alias else ""
        prefill = address = pairing = ""
        if pair is not None:
            pairing = pair.pairing
            if pairing is Pairing.PAIRED:
                replica = self._replicas.get(ids[pair.slot])
                assert replica is not None, "members are registered"
                prefill, address = replica.id, replica.address
        return Decision(
            best.reason,
            first,
            second,
            real_model=real_model,
            priority=CLASS_NAMES[features.priority],
            prefill=prefill,
            prefill_address=address,
            pairing=pairing,
            scope=features.scope,
            once=once,
            silence_ms=silence_ms,
        )

    def _unplaceable(self, features: RequestFeatures) -> Decision:
        """The answer for a request whose model nobody tells, or that no eligible replica serves."""
        if features.naming:
            return Decision(Reason.NO_MODEL, status=400)
        if not features.alias and not self._memberships.serves(features.model):
            # Lone surrogates stand for bytes that were no UTF-8; the name goes out again.
            name = features.model.encode("utf-8", "replace").decode()
            return Decision(Reason.UNKNOWN_MODEL, status=404, model=name)
        if len(self._memberships.of(ANY_MODEL).slots):
            # HAProxy, choosing alone, could only meet replicas of another model.
            return Decision(Reason.NO_CANDIDATES, status=503, retry_after_s=RETRY_AFTER_S)
        return Decision(Reason.NO_CANDIDATES)

    def _adapter(self, model: str) -> AdapterSignals | None:
        """Where the adapter of that name is loaded; None for a name of no adapter."""
        if model not in self._memberships.adapters():
            return None
        return self._adapters.signals(model)

    # Applying

    def _apply(self, features: RequestFeatures, considered: Considered, now_s: float) -> int:
        """Writes down that a request goes to the best of its ranking.

        The prompt tokens that this replica is predicted to hold; -1 for a policy that does not look at prompts.
        """
        predicted = -1
        slot, pair, prompt = considered.ranked[0].slot, considered.pair, considered.prompt
        if features.request_id:  # without one (a person asking by hand) nothing would ever end it
            room = min(considered.longest, self._kv.columns.room(slot))
            tokens = expected_tokens(features, room)
            if not features.missing_bytes:
                self._requests.reserve(features.request_id, slot, tokens, now_s, features=features)
            else:
                announced = min(features.missing_bytes // BYTES_PER_TOKEN, room - tokens)
                self._requests.reserve(features.request_id, slot, tokens, now_s, announced=announced, features=features)
            if slot in self._outliers.probing:
                self._outliers.probe(slot, features.request_id, now_s)
        if features.session:
            if considered.active.pins:
                self._sessions.pin(features.session, considered.candidates.ids[slot], now_s)
            if self._sessions.ordered and features.generates:
                self._sessions.followed(features.session, considered.candidates.ids[slot], now_s)
            if features.model:
                self._recall.asked(features.session, features.alias or features.model)
        if features.alias:
            self._versions.placed(features, prompt, slot, considered.longest, now_s)
        if considered.candidates.adapter is not None:
            self._adapters.placed(slot, features.model, now_s)
        if prompt is not None:
            prefill = NO_SLOT if pair is None else pair.slot
            placement = self._requests.place(features, prompt, slot, considered.candidates, now_s, prefill=prefill)
            predicted = placement.cached
        self._outliers.budget.refused += considered.decision.once
        if pair is None:
            return predicted
        self._metrics.pairings[pair.pairing] += 1
        if pair.slot != NO_SLOT and features.request_id:
            tokens = pair.uncached if prompt is None else min(pair.uncached, prompt.arrived)
            self._requests.reserve_prefill(features.request_id, pair.slot, tokens)
        return predicted
