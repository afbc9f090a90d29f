"""One straight, synchronous line: features -> gather -> rank -> reserve -> decision.

`Pipeline` owns the active policy and writes what a decision changes: a reservation, where the policy pins the session's
home, and where it goes by KV what is expected of the chosen replica. It awaits nothing, so no other task runs between
reading a load and reserving it.

Where the policy would rather have a request wait than refuse it, the answer says so (`hold_ms`). Who asks again, by
`hold`, gets a place in the queue; `step_held` decides for those whose turn it is. Each is placed before the next one is
looked at, so room for one lets one go.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pointsman.contract.registration import Role
from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, AdapterSignals, Candidates, Elsewhere, Slots
from pointsman.policies.decision import Decision, Ranked, Reason, Refusal
from pointsman.policies.lib.pair import Pair, Pairing, best_elsewhere, choose_prefill
from pointsman.policies.policy import Context, Needs, Policy
from pointsman.policies.registry import build_policy, installed_policies
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.decide.features import BYTES_PER_TOKEN, MAX_PROMPT_TOKENS, expected_tokens
from pointsman.router.decide.fleet_state import DEFAULT_SETTINGS, DecisionSettings, FleetState
from pointsman.router.decide.hold_queue import Held, HoldQueue, Outcome
from pointsman.router.decide.model_recall import ModelRecall
from pointsman.router.fleet.replicas import ANY_MODEL, Membership, Replica
from pointsman.router.kv.parts import Prompt
from pointsman.router.metrics.requests import DecisionMetrics
from pointsman.router.outliers.failure_accrual import OutlierConfig
from pointsman.router.outliers.table import OutlierTable

RANKED = 2
"""HAProxy takes a first and a second choice; a third failure in a row is redispatched by its own balancing."""

RETRY_AFTER_S = 1
"""For a model whose replicas are all away: a check that passes brings one back within that time."""

MAX_TURNS = 64
"""Held requests decided in one step, which takes about 5 ms: lookups do not wait behind a whole queue let go."""


class _Active:
    """A policy and what it asks of the pipeline, as plain booleans: a Flag's `&` takes as long as a short ranking."""

    __slots__ = ("by_adapter", "by_kv", "name", "pins", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.name = policy.name
        self.pins = Needs.PIN in policy.needs
        self.by_adapter = Needs.ADAPTER in policy.needs
        self.by_kv = bool(policy.needs & (Needs.PREFIX | Needs.KV))


class Pipeline:
    """Decides where requests go."""

    def __init__(
        self,
        policy: Policy,
        fleet: FleetState,
        *,
        metrics: DecisionMetrics,
        rng: random.Random,
        settings: DecisionSettings = DEFAULT_SETTINGS,
        holds: HoldQueue | None = None,
    ) -> None:
        """A pipeline over the state of one edge.

        policy: the one that decides first; the pipeline closes it when another takes its place.
        rng: the dice of all decisions.
        holds: where requests wait for room; None makes an empty queue.
        """
        self._active = _Active(policy)
        self._replicas = fleet.replicas
        self._load = fleet.load
        self._sessions = fleet.sessions
        self._kv = fleet.kv
        self._adapters = fleet.adapters
        self._outliers = fleet.outliers or OutlierTable(OutlierConfig(enabled=False), fleet.replicas)
        self._context_tokens = fleet.context_tokens
        self._metrics = metrics
        self._rng = rng
        self._pair_config = settings.pair
        self._silence_ms = {model: round(1000 * seconds) for model, seconds in settings.silence_s.items()}
        self._override_header = settings.override_header
        self._overrides: dict[str, _Active] = {}
        self._by_load = _Active(build_policy({"policy": "least_load"}))
        self._recall = ModelRecall(fleet.replicas, fleet.sessions, fleet.kv)
        self.holds = HoldQueue() if holds is None else holds

    @property
    def policy(self) -> Policy:
        return self._active.policy

    @property
    def goes_by_kv(self) -> bool:
        """Whether the active policy looks at prompts or KV."""
        return self._active.by_kv

    def swap_policy(self, policy: Policy) -> None:
        """Puts a built policy live, then closes the one it replaces."""
        old, self._active = self._active, _Active(policy)
        old.policy.close()

    def recall_model(self, session: str, naming: Naming, now_s: float) -> str | None:
        """The model of a request that does not show it: the only one there is, or the session's; "" where any replica
        will do, None where nothing tells it."""
        active = self._active
        pin_ttl_s = active.policy.pin_ttl_s if active.pins else None
        return self._recall.model_of(session, naming, now_s, pin_ttl_s=pin_ttl_s, by_kv=active.by_kv)

    def decide(self, features: RequestFeatures, now_s: float, *, its_turn: bool = False) -> Decision:
        """Chooses, reserves and pins. No opinion (`first` empty) when nothing is eligible; `status` when refused.

        With `hold_ms` it should wait, nothing is decided and nothing counted. `its_turn`: it waited, and nobody that
        waits is before it.
        """
        active = self._active if not features.policy else self._active_for(features)
        if not features.generates:
            active = self._by_load
        members = self._replicas.membership(features.model)
        if features.naming or not len(members.slots):
            decision = self._nobody(features.model) if not features.naming else Decision(Reason.NO_MODEL, status=400)
            self._metrics.decided(active.name, decision.reason)
            return decision
        everyone = members
        if self._outliers.demoted:
            members = self._outliers.narrowed(members, features.session, self._rng)
        longest = self._context_tokens(features.model) or MAX_PROMPT_TOKENS
        prompt = self._kv.read(features, now_s, longest) if active.by_kv else None
        candidates = self._gather(active, features, members, prompt, now_s)
        if prompt is not None and members.prefills_of_all is not None:
            candidates.elsewhere = self._elsewhere(members.prefills_of_all, features, candidates, self._rng)
        context = Context(now_s, self._rng, RANKED)
        if self.holds.held and not its_turn:
            context.waiting = self._has_waiting(everyone)
        refusal = active.policy.admit(features, candidates, context)
        if refusal is not None:
            if refusal.wait_s > 0:
                if its_turn or not self.holds.full:
                    return _held_back(refusal)
                self.holds.overflowed()
            self._metrics.decided(active.name, refusal.reason)
            return _refused(refusal)
        ranked = active.policy.rank(features, candidates, context)
        self._metrics.decided(active.name, ranked[0].reason)
        self._remember(active, features, candidates, ranked[0].slot, longest, now_s)
        return self._placed(features, members, candidates, prompt, ranked, now_s)

    def _remember(
        self, active: _Active, features: RequestFeatures, candidates: Candidates, slot: int, longest: int, now_s: float
    ) -> None:
        """Writes down that a request goes to a slot: its reservation, its session's pin, its adapter."""
        if features.request_id:  # without one (a person asking by hand) nothing would ever end it
            room = min(longest, self._kv.columns.room(slot))
            tokens = expected_tokens(features, room)
            if not features.missing_bytes:
                self._load.reserve(features.request_id, slot, tokens, now_s)
            else:
                announced = min(features.missing_bytes // BYTES_PER_TOKEN, room - tokens)
                self._load.reserve(features.request_id, slot, tokens, now_s, announced=announced)
            if slot in self._outliers.probing:
                self._outliers.probe(slot, features.request_id, now_s)
        if features.session:
            if active.pins:
                self._sessions.pin(features.session, self._replicas.ids[slot], now_s)
            if features.model:
                self._recall.asked(features.session, features.model)
        if candidates.adapter is not None and self._adapters is not None:
            self._adapters.placed(slot, features.model, now_s)

    def _placed(
        self,
        features: RequestFeatures,
        members: Membership,
        candidates: Candidates,
        prompt: Prompt | None,
        ranked: Sequence[Ranked],
        now_s: float,
    ) -> Decision:
        """The decision for a ranking: who prefills, what is expected of the KV, and what HAProxy is told besides."""
        best, ids = ranked[0], self._replicas.ids
        pair = None
        if members.prefills is not None and features.generates:
            pair = self._pair(members, best.slot, features, candidates, self._rng)
        if prompt is not None:
            prefill = NO_SLOT if pair is None else pair.slot
            self._kv.placed(features, prompt, best.slot, candidates, now_s, prefill=prefill)
        once = self._outliers.budget.exhausted
        self._outliers.budget.refused += once
        silence_ms = self._silence_ms.get(features.model, 0) if self._silence_ms else 0
        first, second = ids[best.slot], ids[ranked[1].slot] if len(ranked) > 1 else ""
        if pair is None:
            return Decision(best.reason, first, second, scope=features.scope, once=once, silence_ms=silence_ms)
        self._metrics.pairings[pair.pairing] += 1
        if pair.slot != NO_SLOT and features.request_id:
            tokens = pair.uncached if prompt is None else min(pair.uncached, prompt.arrived)
            self._load.reserve_leg(features.request_id, pair.slot, tokens, now_s)
        decision = self._paired(best.reason, first, second, pair, features.scope)
        if once or silence_ms:
            decision = msgspec.structs.replace(decision, once=once, silence_ms=silence_ms)
        return decision

    def hold(self, features: RequestFeatures, now_s: float) -> Held | Decision:
        """Asked again for a request that should wait: its place in the queue, or a decision where there is room by now,
        or no place."""
        decision = self.decide(features, now_s)
        if not decision.hold_ms:
            return decision
        refusal = msgspec.structs.replace(decision, hold_ms=0)
        if features.request_id and features.request_id not in self.holds.held:
            return self.holds.join(features, now_s, decision.hold_ms / 1000, refusal)
        # A person asks by hand, or twice: nobody will say when such a request is gone.
        self._metrics.decided(self._active_for(features).name, refusal.reason)
        return refusal

    def step_held(self, now_s: float) -> Iterator[tuple[Held, Decision]]:
        """Decides for those of the held whose turn it is, and refuses those whose wait is over; whoever is named here
        has left the queue. Called some times a second while anybody waits.

        Those who may go to the very same replicas are one line, and only the first of a line may go.
        """
        turns = 0
        lines, standing = self._lines(), set[bytes]()
        for held in list(self.holds):
            request_id = held.features.request_id
            line = lines[held.features.model]
            if line not in standing and turns < MAX_TURNS:
                decision = self.decide(held.features, now_s, its_turn=True)
                if not decision.hold_ms:
                    outcome = Outcome.REFUSED if decision.status else Outcome.ADMITTED
                    self.holds.leave(request_id, now_s, outcome)
                    turns += 1
                    yield held, decision
                    continue
            standing.add(line)
            if now_s >= held.until_s:
                self._metrics.decided(self._active_for(held.features).name, held.refusal.reason)
                self.holds.leave(request_id, now_s, Outcome.TIMED_OUT)
                yield held, held.refusal

    def _lines(self) -> dict[str, bytes]:
        """By each model that somebody waits for, the replicas that may serve it."""
        return {model: self._replicas.membership(model).slots.tobytes() for model in self.holds.models}

    def _has_waiting(self, members: Membership) -> bool:
        """Whether anybody waits for the very same replicas."""
        return members.slots.tobytes() in self._lines().values()

    def explain(self, features: RequestFeatures, now_s: float) -> dict[str, Any]:
        """What `decide` would answer and the signals it would see; reserves, pins and counts nothing."""
        active = self._active if not features.policy else self._active_for(features)
        policy = active.policy
        members = self._replicas.membership(features.model)
        excluded = {
            replica.id: _why_excluded(replica) for replica in self._replicas if replica.slot not in members.slots
        }
        if self._outliers.demoted:
            before, members = members, self._outliers.narrowed(members, features.session, _copied(self._rng))
            excluded |= {self._replicas.ids[slot]: "demoted" for slot in set(before.slots) - set(members.slots)}
        explained: dict[str, Any] = {"policy": policy.describe(), "excluded": excluded}
        if not len(members.slots):
            return explained | {"decision": self._nobody(features.model), "candidates": [], "prompt_tokens": 0}
        prompt = self._read(features, now_s) if active.by_kv else None
        candidates = self._gather(active, features, members, prompt, now_s)
        # A policy may keep a turn and draws dice: ask a copy, so that explaining moves neither.
        rng = _copied(self._rng)
        if prompt is not None and members.prefills_of_all is not None:
            candidates.elsewhere = self._elsewhere(members.prefills_of_all, features, candidates, rng)
        twin, context = copy.deepcopy(policy), Context(now_s, rng, len(candidates), self._has_waiting(members))
        refusal = twin.admit(features, candidates, context)
        ranked = twin.rank(features, candidates, context)
        terms = {name: column.tolist() for name, column in twin.terms(features, candidates).items()}
        ids = self._replicas.ids
        places = {place.slot: (at, place) for at, place in enumerate(ranked, 1)}
        first, second = ids[ranked[0].slot], ids[ranked[1].slot] if len(ranked) > 1 else ""
        pair = None if members.prefills is None else self._pair(members, ranked[0].slot, features, candidates, rng)
        decision = self._paired(ranked[0].reason, first, second, pair, features.scope)
        return explained | {
            "decision": decision if refusal is None else self._explain_refusal(refusal),
            "prompt_tokens": candidates.prompt_tokens,
            "candidates": [
                {
                    "replica": row.replica,
                    "in_flight": row.in_flight,
                    "in_flight_tokens": row.in_flight_tokens,
                    "pinned": row.slot == candidates.pin,
                    "adapter_loaded": candidates.adapter is not None and row.slot in candidates.adapter.holders,
                    "resident_tokens": candidates.resident.tokens(row.slot),
                    "terms": {name: column[at] for name, column in terms.items()},
                    **_place(places.get(row.slot)),
                }
                for at, row in enumerate(candidates)
            ],
        }

    def _explain_refusal(self, refusal: Refusal) -> Decision:
        return _held_back(refusal) if refusal.wait_s > 0 and not self.holds.full else _refused(refusal)

    def _adapter(self, model: str) -> AdapterSignals | None:
        """Where the adapter of that name is; None where it names no adapter."""
        if self._adapters is None or model not in self._replicas.adapters():
            return None
        return self._adapters.signals(model)

    def _nobody(self, model: str) -> Decision:
        """No eligible replica serves that model. HAProxy, choosing alone, could only meet replicas of another."""
        if not self._replicas.serves(model):
            # Lone surrogates stand for bytes that were no UTF-8; the name goes out again.
            name = model.encode("utf-8", "replace").decode()
            return Decision(Reason.UNKNOWN_MODEL, status=404, model=name)
        if len(self._replicas.membership(ANY_MODEL).slots):
            return Decision(Reason.NO_CANDIDATES, status=503, retry_after_s=RETRY_AFTER_S)
        return Decision(Reason.NO_CANDIDATES)

    def gather(self, features: RequestFeatures, now_s: float) -> Candidates:
        """What the active policy would be given for a request; nothing changes. At least one replica is eligible."""
        prompt = self._read(features, now_s) if self._active.by_kv else None
        return self._gather(self._active, features, self._replicas.membership(features.model), prompt, now_s)

    def _read(self, features: RequestFeatures, now_s: float) -> Prompt:
        return self._kv.read(features, now_s, self._context_tokens(features.model) or MAX_PROMPT_TOKENS)

    def _pair(
        self,
        members: Membership,
        decode: int,
        features: RequestFeatures,
        candidates: Candidates,
        rng: random.Random,
    ) -> Pair | None:
        """Who prefills for `decode`; None where it is no decode replica."""
        assert members.prefills is not None
        prefills = members.prefills.get(decode)
        if prefills is None:
            return None
        tokens = self._prompt_tokens(features, candidates)
        return choose_prefill(self._pair_config, candidates, decode, prefills, tokens, rng)

    def _elsewhere(
        self, prefills: Slots, features: RequestFeatures, candidates: Candidates, rng: random.Random
    ) -> Elsewhere | None:
        """Who would prefill for any of the candidates."""
        tokens = self._prompt_tokens(features, candidates)
        return best_elsewhere(self._pair_config, candidates, prefills, tokens, rng)

    def _prompt_tokens(self, features: RequestFeatures, candidates: Candidates) -> int:
        """As predicted, or by its bytes where nobody looked at the prompt."""
        if candidates.prompt_tokens:
            return candidates.prompt_tokens
        longest = self._context_tokens(features.model) or MAX_PROMPT_TOKENS
        return min((features.body_bytes - features.missing_bytes) // BYTES_PER_TOKEN, longest)

    def _paired(self, reason: Reason, first: str, second: str, pair: Pair | None, scope: str) -> Decision:
        if pair is None:
            return Decision(reason, first, second, scope=scope)
        if pair.pairing is not Pairing.PAIRED:
            return Decision(reason, first, second, pairing=pair.pairing, scope=scope)
        replica = self._replicas.get(self._replicas.ids[pair.slot])
        assert replica is not None, "members are registered"
        return Decision(
            reason,
            first,
            second,
            prefill=replica.id,
            prefill_address=replica.address,
            pairing=pair.pairing,
            scope=scope,
        )

    def _gather(
        self, active: _Active, features: RequestFeatures, members: Membership, prompt: Prompt | None, now_s: float
    ) -> Candidates:
        """The eligible replicas with exactly the signals the policy declared."""
        adapter = self._adapter(features.model) if active.by_adapter else None
        pin = NO_SLOT
        if features.session and active.pins:
            home = self._sessions.get(features.session, now_s, active.policy.pin_ttl_s)
            if home is not None:
                replica = self._replicas.get(home)
                # A pin to a replica that left is still a pin: the policy tells "moved" from "new" by it.
                pin = replica.slot if replica is not None else GONE_SLOT
        if prompt is None:
            return Candidates(
                membership=members.token,
                slots=members.slots,
                ids=self._replicas.ids,
                in_flight=self._load.in_flight,
                in_flight_tokens=self._load.in_flight_tokens,
                pin=pin,
                # Kept as requests come and go; a part of the fleet has to be added up, by who wants to know.
                counted_in_flight=self._load.total_in_flight if len(members.slots) == len(self._replicas) else None,
                adapter=adapter,
            )
        known = prompt.conversation
        return Candidates(
            membership=members.token,
            slots=members.slots,
            ids=self._replicas.ids,
            in_flight=self._load.in_flight,
            in_flight_tokens=self._load.in_flight_tokens,
            pin=pin,
            kv=self._kv.signals,
            resident=prompt.resident,
            prompt_tokens=prompt.tokens,
            home=known.slot if known is not None else NO_SLOT,
            home_tokens=known.counted_tokens if known is not None else 0,
            adapter=adapter,
        )

    def _active_for(self, features: RequestFeatures) -> _Active:
        """The policy the override header names, with its defaults; the active one for any other name."""
        if not self._override_header:
            return self._active
        active = self._overrides.get(features.policy)
        if active is None:
            if features.policy not in installed_policies():
                return self._active
            active = self._overrides[features.policy] = _Active(build_policy({"policy": features.policy}))
        return active

    def describe(self) -> Mapping[str, object]:
        return self._active.policy.describe()


def _copied(rng: random.Random) -> random.Random:
    copied = random.Random()
    copied.setstate(rng.getstate())
    return copied


def _why_excluded(replica: Replica) -> str:
    if not replica.eligible:
        return replica.state
    return "prefill" if replica.role is Role.PREFILL else "other-model"


def _refused(refusal: Refusal) -> Decision:
    return Decision(refusal.reason, status=refusal.status, retry_after_s=refusal.retry_after_s)


def _held_back(refusal: Refusal) -> Decision:
    """To be held; refused where HAProxy's configuration knows of no holding."""
    return msgspec.structs.replace(_refused(refusal), hold_ms=max(1, round(refusal.wait_s * 1000)))


def _place(place: tuple[int, Ranked] | None) -> dict[str, Any]:
    if place is None:
        return {"rank": None, "score": None, "reason": None}
    at, ranked = place
    return {"rank": at, "score": ranked.score, "reason": ranked.reason}
