"""Bounds from which requests wait at the edge: pure functions of the candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from candidates import make_candidates

from pointsman.policies.admission import DEFAULT_ADMISSION, FEW_SLOTS, Admission, BatchLane
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Reason, Refusal
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.policy import Needs, admission_of, needs_of
from pointsman.policies.registry import build_policy, build_policy_set, document_schema
from pointsman.policies.request import BATCH, NORMAL

MANY = FEW_SLOTS + 4


def fleet(count: int, *, loads: int = 0, busiest: int = 0, **kv: Any) -> Candidates:
    """So many replicas, of which the last has `busiest` requests and the others `loads`; all the same by KV."""
    names = {f"r{number}": loads for number in range(count - 1)} | {f"r{count - 1}": busiest or loads}
    columns = {key: [value] * count for key, value in kv.items()}
    return make_candidates(names, kv=columns or None, prompt=100)


def holds(admission: Admission, candidates: Candidates, priority: int = NORMAL, *, waiting: bool = False) -> bool:
    return admission.refusal(priority, candidates, waiting=waiting) is not None


@pytest.mark.parametrize("count", [2, MANY])
class TestBounds:
    """Each bound alone, for few replicas and for many."""

    def test_running_requests_count_on_the_replica_that_has_the_fewest(self, count: int) -> None:
        admission = Admission(running=4)
        assert not holds(admission, fleet(count, loads=3, busiest=99))
        assert holds(admission, fleet(count, loads=4, busiest=99))

    def test_batch_requests_make_no_other_wait(self, count: int) -> None:
        candidates = fleet(count, loads=4)
        batch = np.zeros_like(candidates.in_flight)
        batch[candidates.slots[0]] = 1
        admission = Admission(running=4)
        assert admission.refusal(NORMAL, candidates, waiting=False, batch=batch) is None

    def test_the_backlog_is_that_of_the_least_backlogged_replica(self, count: int) -> None:
        """T(x) is 20 ms + 0.02 ms x: 49,000 tokens take a second."""
        admission = Admission(prefill_s=1.0)
        assert not holds(admission, fleet(count, waiting=48_000))
        assert holds(admission, fleet(count, waiting=49_000))
        mixed = make_candidates({f"r{n}": 0 for n in range(count)}, kv={"waiting": [49_000] * (count - 1) + [0]})
        assert not holds(admission, mixed)

    def test_kv_use_is_that_of_all_replicas_together(self, count: int) -> None:
        admission = Admission(kv_use=0.5)
        assert not holds(admission, fleet(count, footprint=49_000))
        assert holds(admission, fleet(count, footprint=50_000))


def test_without_kv_signals_their_bounds_hold_nobody() -> None:
    candidates = make_candidates(a=99)
    candidates.kv = None
    assert not holds(Admission(prefill_s=0.1, kv_use=0.1), candidates)


def test_an_unknown_capacity_bounds_nothing() -> None:
    assert not holds(Admission(kv_use=0.1), fleet(2, footprint=90_000, capacity=float("inf")))


def test_who_comes_while_others_wait_waits_behind_them() -> None:
    """With bounds, and where waiting is possible at all."""
    idle = fleet(2)
    assert holds(Admission(running=9, wait_s=5.0), idle, waiting=True)
    assert not holds(Admission(running=9), idle, waiting=True)
    assert not holds(Admission(wait_s=5.0), idle, waiting=True), "no bound: the others wait for something else"


def test_a_refusal_says_for_how_long_to_wait() -> None:
    admission = Admission(running=1, wait_s=7.0, retry_after_s=3)
    assert admission.refusal(NORMAL, fleet(1, loads=1), waiting=False) == Refusal(Reason.ADMISSION, 429, 3, 7.0)


class TestBatch:
    """The lane of the batch class."""

    def test_without_kv_signals_it_waits_for_a_replica_without_requests(self) -> None:
        candidates = make_candidates(a=1, b=1)
        candidates.kv = None
        assert holds(DEFAULT_ADMISSION, candidates, BATCH)
        candidates = make_candidates(a=1, b=0)
        candidates.kv = None
        assert not holds(DEFAULT_ADMISSION, candidates, BATCH)

    def test_it_fills_kv_up_to_a_share(self) -> None:
        assert not holds(DEFAULT_ADMISSION, fleet(2, loads=3, footprint=60_000), BATCH)
        assert holds(DEFAULT_ADMISSION, fleet(2, loads=3, footprint=70_000), BATCH)

    def test_it_waits_while_all_replicas_have_some_requests(self) -> None:
        """Four, or so many as the lane says."""
        assert holds(DEFAULT_ADMISSION, fleet(2, loads=4, busiest=9), BATCH)
        assert not holds(Admission(batch=BatchLane(running=9)), fleet(2, loads=8), BATCH)

    def test_it_waits_while_prompts_wait(self) -> None:
        assert holds(DEFAULT_ADMISSION, fleet(2, waiting=3_000), BATCH)

    @pytest.mark.parametrize("count", [2, MANY])
    def test_the_backlog_is_the_mean_of_all_replicas(self, count: int) -> None:
        """T(x) is 20 ms + 0.02 ms x: one prompt of a replica among few is too much, and among many it is not."""
        busy = make_candidates({f"r{n}": 0 for n in range(count)}, kv={"waiting": [500] + [0] * (count - 1)})
        assert holds(DEFAULT_ADMISSION, busy, BATCH) is (count == 2)

    def test_it_waits_behind_all_others(self) -> None:
        refusal = DEFAULT_ADMISSION.refusal(BATCH, fleet(2), waiting=True)
        assert refusal is not None and refusal.wait_s == DEFAULT_ADMISSION.batch.wait_s

    def test_it_waits_while_it_has_delayed_too_many(self) -> None:
        """The share is what the caller counted; others do not wait for it."""
        bound = DEFAULT_ADMISSION.batch.delays
        assert bound is not None
        assert DEFAULT_ADMISSION.refusal(BATCH, fleet(2), waiting=False, delayed=0.9 * bound) is None
        assert DEFAULT_ADMISSION.refusal(BATCH, fleet(2), waiting=False, delayed=bound) is not None
        unbounded = Admission(running=9, batch=BatchLane(delays=None))
        for priority in (BATCH, NORMAL):
            assert unbounded.refusal(priority, fleet(2), waiting=False, delayed=1.0) is None

    def test_it_keeps_the_bounds_of_the_others_too(self) -> None:
        assert holds(Admission(running=2), fleet(2, loads=2, footprint=0), BATCH)


@pytest.mark.parametrize("name", ["least_load", "round_robin", "session_affinity", "weighted", "prefix_affinity"])
def test_any_policy_takes_bounds(name: str) -> None:
    """They come back in its description with their defaults, and bring the signals they need."""
    bounds = {"kv_use": 0.9, "wait_s": 20}
    document: dict[str, Any] = {"policy": name, "admission": bounds}
    if name == "weighted":
        document["weights"] = {"load": 1.0}
    policy = build_policy(document)
    admission = admission_of(policy)
    assert admission is not None and (admission.kv_use, admission.wait_s, admission.running) == (0.9, 20.0, None)
    described = policy.describe()
    assert described["admission"]["kv_use"] == 0.9
    assert build_policy(described).describe() == described
    assert Needs.KV in needs_of(policy)
    assert Needs.KV in build_policy_set(document).needs
    assert "admission" in document_schema(name)["properties"]


def test_bounds_by_load_need_no_signals() -> None:
    assert Needs.KV not in needs_of(build_policy({"policy": "least_load", "admission": {"running": 4}}))


def test_models_have_bounds_of_their_own() -> None:
    policies = build_policy_set(
        {"policy": "least_load", "models": {"small": {"policy": "random", "admission": {"running": 2}}}}
    )
    assert admission_of(policies.of("other")) is None
    assert admission_of(policies.of("small")) == Admission(running=2)


def test_the_bounds_of_a_fallback_count_where_its_policy_has_none() -> None:
    document = {"policy": "session_affinity", "fallback": {"policy": "kv_cost", "admission": {"running": 3}}}
    admission = admission_of(build_policy(document))
    assert admission is not None and admission.running == 3


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"policy": "least_load", "admission": {"runing": 3}}, "admission.runing"),
        ({"policy": "least_load", "admission": {"running": 0}}, "admission.running"),
        ({"policy": "least_load", "admission": {"batch": {"kv_use": -1}}}, "admission.batch.kv_use"),
        ({"policy": "least_load", "admission": {"limit": 0.9}}, "admission.limit"),
        ({"policy": "session_affinity", "fallback": {"policy": "random", "admission": {}}}, "fallback.admission"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_path(document: dict[str, Any], key: str) -> None:
    with pytest.raises(PolicyConfigError) as caught:
        build_policy(document)
    assert caught.value.key == key


def test_null_is_no_admission() -> None:
    assert admission_of(build_policy({"policy": "least_load", "admission": None})) is None
