"""Times, tokens and statuses by model and tenant, from what engines and HAProxy report."""

from __future__ import annotations

import pytest
from invariants import check
from reporting_fleet import ReportingFleet
from ring_line import line

from pointsman.contract.events import Finished, FirstToken
from pointsman.contract.registration import Registration, leg_id
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.counts.models import OTHER, ModelRow
from pointsman.router.requests.ended import LINGER_S

CHAT = "/v1/chat/completions"


class Fleet(ReportingFleet):
    """Replicas that report, and requests for a model."""

    def decide(self, request_id: str, *, model: str = "m", tenant: str = "") -> int:
        """A decision of the live policy; the slot."""
        features = RequestFeatures(request_id=request_id, model=model, tenant=tenant, path=CHAT, body_bytes=4000)
        decision = self.core.decide(features, 0.0)
        return self.core.replicas.slot_of(decision.first)

    def row(self, model: str = "m", tenant: str = "", operation: str = "chat") -> ModelRow:
        return self.core.meter.counts.row(model, tenant, operation)

    def end(self, request_id: str, slot: int, **fields: object) -> None:
        name = self.core.replicas.ids[slot]
        self.core.end_of_request.apply(line(id=request_id, srv=name, first=name, **fields), 0.0)


def test_a_first_token_is_counted_by_model_tenant_and_operation() -> None:
    """Time, prompt, cached part; a request of another edge counts nothing."""
    fleet = Fleet()
    slot = fleet.decide("q1", tenant="acme")
    fleet.tell(slot, first=[FirstToken("q1", 1000, 600, 80.0), FirstToken("of another edge", 500, 0, 9.0)])
    row = fleet.row(tenant="acme")
    assert (row.ttft_s.count, row.ttft_s.total) == (1, pytest.approx(0.08))
    assert (row.prompt_tokens, row.cached_tokens) == (1000, 600)
    assert len(fleet.core.meter.counts) == 1


def test_the_parts_of_a_time_to_first_token_are_all_of_it() -> None:
    """Prefill is what the replica's times say of the uncached tokens, at most all; the rest is the queue."""
    fleet = Fleet()
    slot = fleet.decide("q1")
    expected_s = fleet.kv.columns.signals.time_ms(slot, 400) / 1000
    fleet.tell(slot, first=[FirstToken("q1", 1000, 600, 1000.0)])
    row = fleet.row()
    assert row.prefill_s == pytest.approx(expected_s)
    assert row.hold_s + row.queue_s + row.prefill_s == pytest.approx(row.ttft_s.total)
    fast = fleet.decide("q2")
    fleet.tell(fast, first=[FirstToken("q2", 1000, 0, 0.001)])
    assert row.queue_s + row.prefill_s == pytest.approx(row.ttft_s.total)


def test_cached_tokens_save_the_time_to_compute_them() -> None:
    """By the prefill times of the replica that found them; nothing found saves nothing."""
    fleet = Fleet()
    slot = fleet.decide("q1")
    times = fleet.kv.columns.signals.time_ms
    expected_s = (times(slot, 1000) - times(slot, 400)) / 1000
    fleet.tell(slot, first=[FirstToken("q1", 1000, 600, 80.0)])
    assert fleet.row().saved_s == pytest.approx(expected_s)
    fleet.tell(fleet.decide("q2"), first=[FirstToken("q2", 1000, 0, 80.0)])
    assert fleet.row().saved_s == pytest.approx(expected_s)


def test_what_could_be_had_is_what_the_best_candidate_holds() -> None:
    """By the same prediction as for the chosen one, so that their ratio is what routing gave up."""
    fleet = Fleet()
    fleet.tell(1, stored=[1000, 1001, 1002, 1003])
    features = RequestFeatures(request_id="q1", prefix_keys=(1000, 1001, 1002, 1003, 1004), body_bytes=4000, model="m")
    prompt = fleet.kv.read(features, 0.0)
    fleet.requests.reserve("q1", 0, 100, 0.0, features=features)
    fleet.requests.place(features, prompt, 0, fleet.candidates, 0.0)
    fleet.tell(0, first=[FirstToken("q1", 1000, 10, 80.0)])
    row = fleet.row(operation=OTHER)
    assert (row.predicted_tokens, row.reachable_tokens) == (0, prompt.resident.tokens(1))
    assert row.reachable_tokens > 0


def test_an_end_gives_output_tokens_and_their_pace() -> None:
    """Between tokens: a hundred have 99 intervals. One that was aborted counts its tokens alone."""
    fleet = Fleet()
    slot = fleet.decide("q1")
    fleet.tell(slot, finished=[Finished("q1", 1000, 100, 1980.0)])
    slot = fleet.decide("q2")
    fleet.tell(slot, finished=[Finished("q2", 0, 7, 9000.0)])
    row = fleet.row()
    assert row.output_tokens == 107
    assert (row.per_token_s.count, row.per_token_s.total) == (1, pytest.approx(0.02))


@pytest.mark.parametrize("policy", ["kv_cost", "power_of_two"])
def test_reports_after_the_end_count_under_every_policy(policy: str) -> None:
    """HAProxy's line overtakes the engine's message, most of all where engines report once a second."""
    fleet = Fleet()
    fleet.core.policy.put({"policy": policy})
    slot = fleet.decide("q1")
    fleet.end("q1", slot)
    fleet.tell(slot, first=[FirstToken("q1", 1000, 0, 80.0)], finished=[Finished("q1", 1000, 3, 40.0)])
    row = fleet.row()
    assert (row.ttft_s.count, row.per_token_s.count, row.output_tokens) == (1, 1, 3)
    check(fleet.core)
    fleet.requests.expire(LINGER_S + 1)
    assert len(fleet.requests) == 0


def test_a_request_that_nothing_is_reported_of_any_more_is_forgotten() -> None:
    """At its end, when its engine reported its own, or where the replica reports nothing."""
    fleet = Fleet()
    fleet.core.policy.put({"policy": "power_of_two"})
    slot = fleet.decide("q1")
    fleet.tell(slot, finished=[Finished("q1", 1000, 3, 40.0)])
    fleet.end("q1", slot)
    assert "q1" not in fleet.requests
    fleet.core.kv.stop_reports(slot := fleet.decide("q2"))
    fleet.end("q2", slot)
    assert "q2" not in fleet.requests


def test_ends_are_counted_by_status_with_their_duration() -> None:
    """Only those that a replica served, and only of requests that the router is asked about."""
    fleet = Fleet()
    slot = fleet.decide("q1")
    fleet.end("q1", slot, st=200, ta=300)
    fleet.end("q2", fleet.decide("q2"), st=500, ta=100)
    fleet.end("q3", fleet.decide("q3"), st=-1, ta=50)
    fleet.core.end_of_request.apply(line(id="q4", srv="<NOSRV>", st=503), 0.0)
    fleet.end("q5", slot, routed="-")
    durations = fleet.row().durations_s
    assert {status: (took.count, took.total) for status, took in durations.items()} == {
        200: (1, pytest.approx(0.3)),
        500: (1, pytest.approx(0.1)),
        -1: (1, pytest.approx(0.05)),
    }


def test_a_request_without_a_model_counts_for_its_replicas() -> None:
    """With one model behind the edge HAProxy reads none; and HAProxy's own choices have no record here."""
    fleet = Fleet()
    for name in fleet.core.replicas.ids:
        fleet.core.replicas.remove(name)
    fleet.core.replicas.put("a", Registration(url="http://10.0.0.9:1", model="qwen"), ("10.0.0.9", 1), 0.0)
    slot = fleet.decide("q1", model="")
    fleet.end("q1", slot)
    assert fleet.row("qwen").durations_s[200].count == 1
    fleet.end("of HAProxy's own", slot, reason="fail-open")
    assert fleet.row("qwen", operation=OTHER).durations_s[200].count == 1
    fleet.core.end_of_request.apply(line(id="q2", srv="gone"), 0.0)
    assert fleet.row(OTHER, operation=OTHER).durations_s[200].count == 1


def test_where_engines_report_nothing_haproxys_time_counts() -> None:
    """And only there: no request is counted twice."""
    fleet = Fleet()
    slot = fleet.decide("q1")
    fleet.end("q1", slot, ttft="70")
    assert fleet.row().ttft_s.count == 0
    fleet.core.kv.stop_reports(slot := fleet.decide("q2"))
    fleet.end("q2", slot, ttft="70")
    assert (fleet.row().ttft_s.count, fleet.row().ttft_s.total) == (1, pytest.approx(0.07))


def test_a_hold_is_part_of_the_time_to_first_token() -> None:
    """A client waits for it as for the engine."""
    fleet = Fleet()
    features = RequestFeatures(request_id="q1", model="m", path=CHAT, body_bytes=4000)
    fleet.core.holds.join(features, 10.0, 60.0, Decision(Reason.ADMISSION, status=429))
    fleet.core.pipeline.decide(features, 12.5, its_turn=True)
    slot = fleet.requests.get("q1").slot  # type: ignore[union-attr]
    fleet.tell(slot, first=[FirstToken("q1", 1000, 0, 500.0)])
    row = fleet.row()
    assert row.hold_s == pytest.approx(2.5)
    assert row.ttft_s.total == pytest.approx(3.0)


def test_a_prompt_computed_elsewhere_is_counted_where_it_was() -> None:
    """The prefill request has the prompt and its cached part, the decode replica the time to first token."""
    fleet = Fleet()
    features = RequestFeatures(request_id="q1", model="m", path=CHAT, body_bytes=4000)
    prompt = fleet.kv.read(features, 0.0)
    fleet.requests.reserve("q1", 0, 100, 0.0, features=features)
    fleet.requests.place(features, prompt, 0, fleet.candidates, 0.0, prefill=1)
    fleet.tell(1, first=[FirstToken(leg_id("q1"), 1000, 300, 60.0)], finished=[Finished(leg_id("q1"), 1000, 1)])
    fleet.tell(0, first=[FirstToken("q1", 1000, 1000, 90.0)])
    row = fleet.row()
    assert (row.prompt_tokens, row.cached_tokens, row.output_tokens) == (1000, 300, 0)
    assert (row.ttft_s.count, row.ttft_s.total) == (1, pytest.approx(0.09))
    assert (row.remote_prefill_s, row.queue_s, row.prefill_s) == (pytest.approx(0.09), 0.0, 0.0)
