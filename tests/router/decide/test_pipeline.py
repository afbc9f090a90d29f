"""The pipeline: features -> gather -> rank -> reserve -> decision."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from invariants import check

from pointsman.contract.events import EngineEvents, FirstToken
from pointsman.contract.registration import Registration, Role
from pointsman.policies.decision import Reason
from pointsman.policies.lib.pair import Pairing
from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.fleet_state import DecisionSettings
from pointsman.router.fleet.replica import Health
from pointsman.router.outliers.answers import Verdict


class Edge:
    """The state around one pipeline, with replicas that are up."""

    def __init__(
        self,
        *replicas: str,
        policy: object = "least_load",
        override_header: bool = False,
        silence_s: Mapping[str, float] | None = None,
    ) -> None:
        document = {"policy": policy} if isinstance(policy, str) else policy
        decisions = DecisionSettings(override_header=override_header, silence_s=silence_s or {})
        self.core = Core(document, rng=random.Random(7), config=CoreConfig(decisions=decisions))  # type: ignore[arg-type]
        self.load = self.core.load
        self.sessions = self.core.sessions
        self.kv = self.core.kv
        self.metrics = self.core.decision_metrics
        self.replicas = self.core.replicas
        self.outliers = self.core.outliers
        self.pipeline = self.core.pipeline
        for number, replica in enumerate(replicas):
            self.put(replica, number)

    def put(self, replica: str, number: int = 0, model: str = "", role: Role = Role.BOTH) -> None:
        registration = Registration(url=f"http://127.0.0.1:{8000 + number}", model=model, role=role)
        self.replicas.put(replica, registration, ("127.0.0.1", 8000 + number), 0.0)

    def ask(self, request: str = "r", *, now_s: float = 0.0, **features: object):
        return self.pipeline.decide(RequestFeatures(request_id=request, **features), now_s)  # type: ignore[arg-type]

    def in_flight(self, replica: str) -> int:
        return int(self.load.in_flight[self.replicas.get(replica).slot])  # type: ignore[union-attr]


def test_a_decision_reserves_where_it_sends() -> None:
    """Two requests on two idle replicas land on different ones, because the first is counted."""
    edge = Edge("a", "b")
    first, second = edge.ask("1"), edge.ask("2")
    assert {first.first, second.first} == {"a", "b"}
    assert (first.second, second.second) == (second.first, first.first)
    assert edge.in_flight("a") == edge.in_flight("b") == 1


def test_a_single_replica_has_no_second_choice() -> None:
    """`second` stays empty rather than repeating `first`."""
    assert Edge("only").ask().second == ""


def test_a_request_goes_to_a_replica_of_its_model() -> None:
    """A name nobody serves is refused: any replica would refuse it too."""
    edge = Edge()
    edge.put("q", 0, "qwen")
    edge.put("l", 1, "llama")
    assert edge.ask("1", model="qwen").first == "q"
    assert edge.ask("2", model="llama").first == "l"
    unknown = edge.ask("3", model="gpt-9\udcff")
    assert (unknown.first, unknown.status, unknown.reason) == ("", 404, Reason.UNKNOWN_MODEL)
    assert unknown.model == "gpt-9?"


@pytest.mark.parametrize("naming", [Naming.ABSENT, Naming.UNSEEN])
def test_a_request_whose_model_nothing_tells_is_refused(naming: Naming) -> None:
    """No replica of any model is tried, and nothing is reserved."""
    edge = Edge()
    edge.put("q", 0, "qwen")
    edge.put("l", 1, "llama")
    explained = edge.pipeline.explain(RequestFeatures(request_id="1", naming=naming), 0.0)
    refused = edge.ask("1", naming=naming)
    assert explained.decision == refused and explained.candidates == []
    assert (refused.first, refused.status, refused.reason) == ("", 400, Reason.NO_MODEL)
    assert edge.metrics.by_reason == {("least_load", Reason.NO_MODEL): 1}
    assert len(edge.load) == 0


def test_what_generates_nothing_goes_by_load_alone() -> None:
    """An embedding is no turn of its session: it neither follows the pin nor makes one, and has no KV anywhere."""
    for policy in ("session_affinity", "kv_cost"):
        edge = Edge("a", "b", policy=policy)
        home = edge.ask("1", session="s", body_bytes=4000, prefix_keys=(1, 2)).first
        embedding = edge.ask("2", session="s", generates=False, body_bytes=4000)
        assert embedding.reason is Reason.LEAST_LOAD and embedding.first != home
        assert edge.load.in_flight_tokens.sum() > 1000
        edge.ask("3", session="new", generates=False)
        assert edge.sessions.get("new", 0.0, 10.0) is None
        assert [conversation.name for conversation in edge.kv.conversations.by_name.values()] in ([], ["s"])


def test_policies_without_pins_leave_the_table_alone() -> None:
    """Load balancing by itself does not pin sessions."""
    edge = Edge("a", "b", policy="least_load")
    edge.ask("1", session="s")
    assert len(edge.sessions) == 0


def test_decisions_are_counted_by_policy_and_reason() -> None:
    """The reason is the metric label."""
    edge = Edge("a", policy="session_affinity")
    edge.ask("1", session="s")
    edge.ask("2", session="s")
    assert edge.metrics.by_reason["session_affinity", Reason.SESSION_PIN] == 1
    assert edge.metrics.by_reason["session_affinity", Reason.LEAST_LOAD] == 1


def test_a_swapped_policy_decides_from_the_next_request_on() -> None:
    """The old one is closed after the swap."""
    edge = Edge("a", "b")
    closed: list[str] = []
    old = edge.pipeline.policy
    old.close = lambda: closed.append("old")  # type: ignore[method-assign]
    edge.pipeline.swap_policies(PolicySet(build_policy({"policy": "round_robin"})))
    assert closed == ["old"]
    assert edge.ask().reason is Reason.ROUND_ROBIN


def test_the_override_header_counts_only_when_enabled() -> None:
    """Off, it is ignored; on, a known policy decides this one request; an unknown name changes nothing."""
    assert Edge("a", policy="least_load").ask(policy="random").reason is Reason.LEAST_LOAD
    edge = Edge("a", policy="least_load", override_header=True)
    assert edge.ask("1", policy="random").reason is Reason.RANDOM
    assert edge.ask("2", policy="no-such").reason is Reason.LEAST_LOAD
    assert edge.pipeline.policy.name == "least_load"


@pytest.mark.parametrize("policy", ["round_robin", "least_load", "session_affinity", "power_of_two", "consistent_hash"])
def test_explaining_changes_nothing(policy: str) -> None:
    """The decision after a hundred explanations is the one there would have been without."""
    plain, explained = Edge("a", "b", "c", policy=policy), Edge("a", "b", "c", policy=policy)
    for number in range(6):
        for _ in range(20):
            told = explained.pipeline.explain(RequestFeatures(request_id="x", session=f"s{number}"), 0.0)
        decided = explained.ask(str(number), session=f"s{number}")
        assert decided == plain.ask(str(number), session=f"s{number}")
        assert told.decision == decided
    assert len(explained.load) == 6


def test_explaining_names_every_replica_once() -> None:
    """Candidates with signals and places, the others with the cause of their exclusion."""
    edge = Edge("a", "b", "c", "d")
    edge.replicas.drain("c", 0.0)
    edge.replicas.set_health("d", Health.DOWN, 0.0)
    edge.ask("1")
    told = edge.pipeline.explain(RequestFeatures(request_id="x"), 0.0)
    assert told.excluded == {"c": "draining", "d": "down"}
    assert {row.replica: row.rank for row in told.candidates} == {
        told.decision.first: 1,
        told.decision.second: 2,
    }
    assert {row.in_flight for row in told.candidates} == {0, 1}


def test_pins_are_looked_up_only_for_policies_that_need_them() -> None:
    """Needs are declared: session_affinity has PIN, consistent_hash has not."""
    assert build_policy({"policy": "session_affinity"}).needs & Needs.PIN
    assert not build_policy({"policy": "consistent_hash"}).needs & Needs.PIN


class TestPairs:
    """Requests for decode replicas: a prefill replica computes the prompt, or none."""

    LONG = 40_000
    """Bytes: 10,000 tokens by the rule of thumb."""

    @staticmethod
    def edge(policy: str = "least_load", *prefills: str, decode: str = "d") -> Edge:
        edge = Edge(policy=policy)
        edge.put(decode, 0, role=Role.DECODE)
        for number, name in enumerate(prefills or ("p",), 1):
            edge.put(name, number, role=Role.PREFILL)
        return edge

    @pytest.mark.parametrize("policy", ["least_load", "kv_cost"])
    def test_a_long_prompt_gets_both(self, policy: str) -> None:
        """One reservation each; the prefill replica's ends with the first token, the decode replica's with the end."""
        edge = self.edge(policy)
        decision = edge.ask("r", body_bytes=self.LONG)
        assert (decision.first, decision.prefill, decision.pairing) == ("d", "p", Pairing.PAIRED)
        assert decision.prefill_address == "127.0.0.1:8001"
        assert (edge.in_flight("d"), edge.in_flight("p")) == (1, 1)
        edge.core.requests.first_token("r", 0.0)
        assert (edge.in_flight("d"), edge.in_flight("p")) == (1, 0)
        edge.core.requests.end("r", 0.0)
        assert (edge.in_flight("d"), edge.in_flight("p")) == (0, 0)
        check(edge.core)

    def test_the_backlog_is_where_the_prompt_is_computed(self) -> None:
        """In front of others on the prefill replica alone, until it reports the leg's first token."""
        edge = self.edge("kv_cost")
        edge.ask("r", body_bytes=self.LONG)
        slots = [edge.replicas.get(name).slot for name in "dp"]  # type: ignore[union-attr]
        assert [edge.kv.columns.cells.waiting[slot] for slot in slots] == [0, 10_000]
        told = EngineEvents(epoch="e", seq=0, snapshot=True, first=[FirstToken("r.prefill", 9000, 0, 200.0)])
        edge.core.engine_events("p", told, 0.1)
        assert [edge.kv.columns.cells.waiting[slot] for slot in slots] == [0, 0]
        assert edge.kv.times.observations == 1
        told = EngineEvents(epoch="e", seq=0, snapshot=True, first=[FirstToken("r", 9000, 0, 900.0)])
        edge.core.engine_events("d", told, 0.2)
        assert edge.kv.times.observations == 1, "what the decode replica waited for is not its own prefill"
        edge.core.requests.end("r", 0.3)
        edge.core.sweep(100.0)
        check(edge.core)

    def test_prefill_replicas_take_no_requests(self) -> None:
        """Not even when nothing else is there."""
        edge = Edge()
        edge.put("p", role=Role.PREFILL)
        assert edge.ask("1").reason is Reason.NO_CANDIDATES
        told = edge.pipeline.explain(RequestFeatures(request_id="x"), 0.0)
        assert told.excluded == {"p": "prefill"}

    @pytest.mark.parametrize("policy", ["least_load", "kv_cost"])
    def test_prefills_are_spread(self, policy: str) -> None:
        """Nine long prompts at once on three prefill replicas: three each, since each counts where it went."""
        edge = self.edge(policy, "p", "q", "r")
        shares = [edge.ask(str(number), body_bytes=self.LONG, session=str(number)).prefill for number in range(9)]
        assert Counter(shares) == {"p": 3, "q": 3, "r": 3}

    def test_the_pair_is_chosen_as_one(self) -> None:
        """Decode replicas that compute nothing are told apart by their requests, not by a prefix one of them holds."""
        edge = Edge(policy="kv_cost")
        for number, name in enumerate(("d", "e")):
            edge.put(name, number, role=Role.DECODE)
        edge.put("p", 2, role=Role.PREFILL)
        decisions = [edge.ask(str(number), body_bytes=self.LONG, session=str(number)) for number in range(2)]
        assert Counter(decision.first for decision in decisions) == {"d": 1, "e": 1}
        assert {decision.prefill for decision in decisions} == {"p"}

    def test_explaining_says_the_pair_and_changes_nothing(self) -> None:
        """As the decision would be."""
        edge = self.edge("kv_cost")
        features = RequestFeatures(request_id="x", body_bytes=self.LONG)
        told = edge.pipeline.explain(features, 0.0).decision
        assert (told.first, told.prefill, told.pairing) == ("d", "p", "paired")
        assert len(edge.load) == 0 and not edge.metrics.pairings

    def test_a_role_that_changes_counts_from_the_next_request_on(self) -> None:
        """The hash ring, keyed by the membership's token, is kept where the same replicas remain."""
        edge = self.edge()
        token = edge.replicas.memberships.of("").token
        edge.put("q", 2, role=Role.PREFILL)
        assert edge.replicas.memberships.of("").token == token
        edge.put("q", 2, role=Role.BOTH)
        assert edge.replicas.memberships.of("").token != token


def test_a_models_limit_on_silence_is_part_of_its_answers() -> None:
    """In milliseconds for the model it is set for; other models leave it to HAProxy's configuration."""
    edge = Edge("a", silence_s={"slow": 90.0})
    assert edge.ask(model="slow").silence_ms == 90_000
    assert edge.ask(model="quick").silence_ms == 0


def test_an_exhausted_retry_budget_is_part_of_every_answer() -> None:
    """HAProxy must not send the request again, and the router counts how often it said so."""
    edge = Edge("a", "b")
    assert not edge.ask().once
    for _ in range(50):
        edge.outliers.budget.count(retried=True)
    assert edge.ask().once
    assert edge.outliers.budget.refused == 1


def test_explaining_names_what_is_ejected_or_demoted() -> None:
    """The session is drawn as for a decision; an explanation neither probes nor counts."""
    edge = Edge("a", "b", "c", "d")
    for number in range(5):
        edge.outliers.ended(f"f{number}", "a", Verdict.ERROR, 0.0, lasted_s=0.0)
    edge.outliers.ended("p", "b", Verdict.BACKPRESSURE, 0.0, lasted_s=0.0)
    sessions = [
        edge.pipeline.explain(RequestFeatures(request_id="", session=f"s{n}"), 0.0).excluded for n in range(100)
    ]
    assert all(excluded["a"] == "ejected" for excluded in sessions)
    assert 75 < sum(excluded.get("b") == "demoted" for excluded in sessions) < 100
