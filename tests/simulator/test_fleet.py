"""Whole runs in virtual time: arithmetic, delays, deaths."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from invariants import check
from msgspec.structs import replace
from sim_trace import make_conversation, make_session, make_trace, make_turn

from pointsman.engine.sim.timing import DENSE_H100
from pointsman.router.requests.hold_queue import Outcome
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.fleet import MAX_REFUSALS, VirtualFleet
from pointsman.simulator.generate import WORKLOADS, Lognormal, generate
from pointsman.simulator.measure import Summary
from pointsman.simulator.settings import FleetSettings, Restart
from pointsman.simulator.trace import Trace

PREFILL_1000_MS = 16.50142 + 15.18344 + 0.4209989
"""One step of 1,000 prompt tokens on the dense-h100 timing."""


def run(trace: Trace, policy: str | dict[str, Any] = "least_load", *, seed: int = 1, **given: object) -> VirtualFleet:
    document = {"policy": policy} if isinstance(policy, str) else policy
    fleet = VirtualFleet(trace, document, FleetSettings(**given), seed=seed)  # type: ignore[arg-type]
    fleet.summary = fleet.run()  # type: ignore[attr-defined]
    return fleet


def summary(fleet: VirtualFleet) -> Summary:
    return fleet.summary  # type: ignore[attr-defined, no-any-return]


def agents(sessions: int = 40, per_s: float = 0.5, seed: int = 1) -> Trace:
    trace = generate(WORKLOADS["agentic"], sessions=sessions, seed=seed)
    return trace.at_rate(per_s, random.Random(seed))


def test_one_request_alone_takes_its_prefill() -> None:
    """Its first token is there after one step; the other two after a decode step each."""
    fleet = run(make_trace(make_session("a", 5.0, make_turn(1_000, 3))))
    (served,) = fleet.served
    assert served.ttft_s * 1000 == pytest.approx(PREFILL_1000_MS)
    assert served.arrived_s == 5.0
    assert served.itl_s * 1000 == pytest.approx(5.74, rel=0.05)


def test_a_turn_waits_for_the_answer_and_the_pause() -> None:
    """The second turn arrives a pause after the first one's end, wherever the clock of others is."""
    fleet = run(make_trace(make_conversation("a", 0.0, [1_000, 1_100], pause_s=7.0)))
    first, second = fleet.served
    assert second.arrived_s == pytest.approx(first.end_s + 7.0)
    assert (first.turn, second.turn) == (0, 1)
    assert summary(fleet).later_ttft_ms.mean == pytest.approx(second.ttft_s * 1000)


def test_a_shared_system_prompt_is_served_evenly() -> None:
    """2,000 lone requests under 8,192 shared tokens on four replicas: none serves more than 1.25 times the mean,
    and of what could be found in a cache 95 % is."""
    shared = 8_192
    lone = replace(
        WORKLOADS["shared_system_prompt"], system_tokens=shared, first=Lognormal(8_700, 8_900, 8_256, 20_000)
    )
    trace = generate(lone, sessions=2_000, seed=1).at_rate(36.0, random.Random(1))
    fleet = run(trace, "kv_cost", replicas=4)
    requests = Counter(served.replica for served in fleet.served)
    assert max(requests.values()) <= 1.25 * requests.total() / 4
    assert sum(served.cached_tokens for served in fleet.served) >= 0.95 * shared * requests.total()


def test_a_home_finds_its_prefix() -> None:
    """The second turn of 1,100 tokens computes what the first did not: 1,004 tokens are 251 blocks of 4."""
    fleet = run(make_trace(make_conversation("a", 0.0, [1_000, 1_100])), "session_affinity")
    assert [served.cached_tokens for served in fleet.served] == [0, 1_000]


def test_answers_are_found_only_where_they_are_reused() -> None:
    """An answer of 40 tokens fills 10 blocks (the last one is not yet computed when it is emitted)."""
    sessions = make_conversation("a", 0.0, [1_000, 1_100], output=40)
    reused = run(make_trace(sessions), "session_affinity").served[1].cached_tokens
    private = run(make_trace(sessions, reuse_generated=False), "session_affinity").served[1].cached_tokens
    assert (reused, private) == (1_036, 1_000)


def test_the_same_seed_plays_the_same() -> None:
    """To the last digit; other dice give another run."""
    trace = agents()
    one, same, other = (summary(run(trace, "random", seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("policy", ["kv_cost", "least_load", "consistent_hash"])
def test_every_request_is_served_once(policy: str) -> None:
    """And nothing is left in the routers' books."""
    trace = agents()
    fleet = run(trace, policy, routers=3)
    assert summary(fleet).requests == trace.requests
    for edge in fleet.edges:
        assert len(edge.load) == 0
        assert len(edge.kv.backlog) == 0
        check(edge.load)
        check(edge.kv)


def test_routers_that_talk_see_each_others_load() -> None:
    """Two requests at one moment through two routers: least load separates them once the first is known to both.

    Without sync each router sees its own requests only, and over many moments they meet on one replica half the time.
    """
    sessions = [make_session(f"s{i}", float(i // 2) + 0.1 * (i % 2), make_turn(1_000, 20)) for i in range(200)]

    def met(sync_s: float | None) -> int:
        fleet = run(make_trace(*sessions), replicas=2, routers=2, sync_s=sync_s)
        places = {(served.arrived_s, served.replica) for served in fleet.served}
        pairs = [sorted(place for at, place in places if int(at) == second) for second in range(100)]
        return sum(len(set(pair)) == 1 for pair in pairs)

    assert met(0.01) == 0
    assert met(None) > 10


def test_events_come_after_their_lag() -> None:
    """A first token reported 3 s late is learned 3 s late, and still as long as it took."""
    trace = make_trace(make_session("a", 0.0, make_turn(1_000, 100)))
    for lag_s in (0.0, 3.0):
        fleet = run(trace, "kv_cost", replicas=1, event_lag_s=lag_s)
        counters = fleet.edges[0].kv.counters
        assert counters.prediction_error.count == 1
        assert fleet.edges[0].kv.times.observations == 1


def test_a_death_costs_what_it_costs() -> None:
    """A replica dies mid-run: its requests are asked for again, all are served, and it serves again when it is back."""
    trace = agents(60)
    restart = Restart(replica=2, at_s=60.0, down_s=20.0)
    fleet = run(trace, "session_affinity", restarts=(restart,))
    assert summary(fleet).requests == trace.requests
    assert summary(fleet).retried > 0
    served = [record for record in fleet.served if record.replica == 2]
    assert not any(60.0 < record.first_s < 80.0 for record in served)
    assert any(record.first_s > 80.0 for record in served)


def test_with_everything_down_clients_ask_again() -> None:
    """The only replica is away for 30 s: a request of that time is answered after it."""
    trace = make_trace(make_session("a", 10.0, make_turn(1_000, 1)), make_session("b", 0.0, make_turn(1_000, 1)))
    fleet = run(trace, replicas=1, restarts=(Restart(replica=0, at_s=5.0, down_s=30.0),))
    assert fleet.served[-1].ttft_s == pytest.approx(25.0, abs=1.1)


def test_a_refused_client_comes_back() -> None:
    """Admission holds the second conversation back until the first one is no longer live."""
    trace = two_conversations()
    document = {"policy": "kv_cost", "admission": {"limit": 0.9, "retry_after_s": 2}}
    fleet = run(trace, document, replicas=1, kv_tokens=2_000)
    assert summary(fleet).refused > 0
    assert summary(fleet).requests == 2
    assert fleet.served[1].ttft_s > 2.0
    assert summary(fleet).refused < MAX_REFUSALS


def two_conversations() -> Trace:
    """The second begins while the first is answered, and there is no room for both in 2,000 tokens."""
    return make_trace(make_session("a", 0.0, make_turn(1_000, 600)), make_session("b", 1.0, make_turn(1_000, 10)))


def test_the_silent_refuse_nobody_while_nothing_is_known_of_them() -> None:
    """Twenty conversations of one turn, one after the other, where three fill the KV: all are let in at once."""
    sessions = [make_session(f"s{at}", float(at), make_turn(600, 10)) for at in range(20)]
    document = {"policy": "kv_cost", "admission": {"limit": 0.9, "wait_s": 5.0}}
    found = summary(run(make_trace(*sessions), document, replicas=1, kv_tokens=2_000))
    assert (found.requests, found.held, found.refused) == (20, 0, 0)


def test_a_held_request_waits_as_long_as_it_must() -> None:
    """No longer than a look at the queue after the first conversation is no longer live, and it counts as its TTFT."""
    document = {"policy": "kv_cost", "admission": {"limit": 0.9, "wait_s": 300.0}}
    fleet = run(two_conversations(), document, replicas=1, kv_tokens=2_000)
    assert (summary(fleet).held, summary(fleet).refused, summary(fleet).requests) == (1, 0, 2)
    (edge,) = fleet.edges
    assert edge.core.holds.outcomes == {Outcome.ADMITTED: 1}
    waited_s = edge.core.holds.waited_s.total
    assert waited_s > 1.0
    assert fleet.served[1].ttft_s == pytest.approx(waited_s + PREFILL_1000_MS / 1000)
    assert summary(fleet).reasons == {"kv-cold": 2}, "a wait is no decision"


def test_a_held_request_is_refused_after_its_wait_and_comes_back() -> None:
    """Held, refused, back after `retry_after_s`, held again, until there is room."""
    document = {"policy": "kv_cost", "admission": {"limit": 0.9, "wait_s": 0.5, "retry_after_s": 2}}
    fleet = run(two_conversations(), document, replicas=1, kv_tokens=2_000)
    found = summary(fleet)
    assert found.requests == 2
    assert found.refused > 0
    assert found.held in (found.refused, found.refused + 1), "once for each refusal, and perhaps when room came"
    assert found.reasons["admission"] == found.refused


def test_first_turns_are_measured_apart() -> None:
    """They pay for holding sessions back; later turns are what it is done for."""
    document = {"policy": "kv_cost", "admission": {"limit": 0.9, "wait_s": 300.0}}
    found = summary(run(two_conversations(), document, replicas=1, kv_tokens=2_000))
    assert found.first_ttft_ms == found.ttft_ms
    assert found.later_ttft_ms.mean == 0


def test_a_turn_that_cannot_fit_is_refused() -> None:
    """Before anything runs, by name."""
    with pytest.raises(ExperimentError, match="kv_tokens: got 512, expected 1003 or more"):
        run(make_trace(make_session("a", 0.0, make_turn(1_000, 3))), kv_tokens=512)


def test_slow_replicas_get_less_of_the_work() -> None:
    """kv_cost learns prefill times: replicas of half the speed compute fewer tokens."""
    fleet = run(agents(80), "kv_cost", replicas=4, speeds=(1.0, 0.5))
    by_replica = [sum(s.prompt_tokens - s.cached_tokens for s in fleet.served if s.replica == r) for r in range(4)]
    assert by_replica[1] + by_replica[3] < 0.9 * (by_replica[0] + by_replica[2])


def test_a_paired_request_waits_for_both_replicas() -> None:
    """Its prompt is computed by the prefill replica, travels, and its last token is computed where it decodes."""
    fleet = run(make_trace(make_session("a", 0.0, make_turn(4_000, 3))), "kv_cost", replicas=1, prefill_replicas=1)
    (served,) = fleet.served
    expected_s = DENSE_H100.prefill_s(4_000) + (2.0 + 2.5 * 4_000 / 1000) / 1000 + DENSE_H100.prefill_s(1)
    assert served.ttft_s == pytest.approx(expected_s)
    assert (served.replica, summary(fleet).handed_over) == (0, 1)


def test_a_short_prompt_is_not_handed_over() -> None:
    """Below `min_uncached_tokens` the decode replica computes it."""
    fleet = run(make_trace(make_session("a", 0.0, make_turn(1_000, 3))), "kv_cost", replicas=1, prefill_replicas=1)
    assert fleet.served[0].ttft_s * 1000 == pytest.approx(PREFILL_1000_MS)
    assert summary(fleet).handed_over == 0


def test_what_a_prefill_replica_holds_counts_as_cached() -> None:
    """A prompt of 8,000 tokens, and later another that begins alike: the second leg finds what the first left."""
    first, second = make_conversation("a", 0.0, [8_000, 12_000], pause_s=1.0).turns
    trace = make_trace(make_session("a", 0.0, first), make_session("b", 5.0, second))
    fleet = run(trace, "round_robin", replicas=2, prefill_replicas=1)
    assert [served.replica for served in fleet.served] == [0, 1]
    assert [served.cached_tokens for served in fleet.served] == [0, 8_000]


@pytest.mark.parametrize("routers", [1, 3])
def test_pools_serve_every_request_once(routers: int) -> None:
    """With one router and with several; nothing is left in their books, nor blocks that nobody fetched."""
    trace = agents(12)
    fleet = run(trace, "kv_cost", routers=routers, replicas=3, prefill_replicas=2)
    assert summary(fleet).requests == trace.requests
    assert 0 < summary(fleet).handed_over < trace.requests
    assert all(served.replica < 3 for served in fleet.served)
    for edge in fleet.edges:
        assert len(edge.load) == 0
        assert len(edge.kv.backlog) == 0
        check(edge.load)
        check(edge.kv)


@pytest.mark.parametrize("dies", [0, 2])
def test_a_death_in_either_pool_loses_nothing(dies: int) -> None:
    """A decode replica's requests are asked for again; a prefill replica's legs are computed where they decode."""
    trace = agents(15, per_s=1.0)
    restart = Restart(replica=dies, at_s=20.0, down_s=10.0)
    fleet = run(trace, "kv_cost", replicas=2, prefill_replicas=1, restarts=(restart,))
    assert summary(fleet).requests == trace.requests
    assert (summary(fleet).retried > 0) is (dies == 0)


def test_a_prefill_replica_that_dies_leaves_its_leg() -> None:
    """It dies in the middle of a prompt: the decode replica begins anew at once."""
    trace = make_trace(make_session("a", 0.0, make_turn(8_000, 3)))
    restart = Restart(replica=1, at_s=0.05, down_s=10.0)
    fleet = run(trace, "kv_cost", replicas=1, prefill_replicas=1, restarts=(restart,))
    assert fleet.served[0].ttft_s == pytest.approx(0.05 + DENSE_H100.prefill_s(8_000))
    assert (summary(fleet).handed_over, summary(fleet).retried) == (0, 0)


def test_kv_that_died_with_its_replica_is_computed_again() -> None:
    """It dies between the end of the leg and the fetch."""
    trace = make_trace(make_session("a", 0.0, make_turn(8_000, 3)))
    done_s = DENSE_H100.prefill_s(8_000)
    restart = Restart(replica=1, at_s=done_s + 0.001, down_s=10.0)
    fleet = run(trace, "kv_cost", replicas=1, prefill_replicas=1, restarts=(restart,))
    assert fleet.served[0].ttft_s == pytest.approx(2 * done_s + 0.022)
    assert summary(fleet).handed_over == 0
