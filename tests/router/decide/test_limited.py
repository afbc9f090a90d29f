"""Limits in a decision: refused before a replica is chosen, settled at the end."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from ring_line import line

from pointsman.contract.events import EngineEvents, RequestUsage
from pointsman.contract.registration import LEG_SUFFIX, Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.tenancy.records import ApiKey

KEY = "k" * 12


def core(**limits: Any) -> Core:
    """One replica, one tenant with limits."""
    made = Core({"policy": "least_load"}, rng=random.Random(1))
    made.replicas.put("r1", Registration(url="http://h:1", model="m"), ("127.0.0.1", 1), 0.0)
    made.book.write("tenant/t", {"name": "t", "limits": limits})
    return made


def ask(one: Core, request_id: str, now_s: float = 0.0, *, tenant: str = "t", **features: Any) -> Decision:
    return one.decide(RequestFeatures(request_id=request_id, tenant=tenant, model="m", **features), now_s)


def test_a_request_over_a_limit_is_refused_and_reserves_nothing() -> None:
    """It says which limit, when to come again, and what is left; it is counted."""
    one = core(requests_per_minute=10)
    assert ask(one, "q1").first == "r1"
    assert one.limits.left() == one.limits.left_of("q1") == (b"10/0/6s", b"")
    over = ask(one, "q2")
    assert (over.status, over.reason, over.retry_after_s) == (429, Reason.LIMIT, 6)
    assert over.limit == "requests_per_minute of tenant/t"
    assert one.limits.left() == (b"10/0/6s", b"")
    assert one.load.total_in_flight == 1
    assert one.decision_metrics.by_reason["least_load", Reason.LIMIT] == 1
    assert ask(one, "q3", 6.0).first == "r1"


def test_others_are_not_limited() -> None:
    """Another tenant, and requests without one, hear nothing of limits."""
    one = core(requests_per_minute=0)
    for tenant in ("other", ""):
        assert ask(one, f"q-{tenant}", tenant=tenant).first == "r1"
        assert one.limits.left() == one.limits.left_of(f"q-{tenant}") == (b"", b"")


def test_tokens_are_taken_by_estimate() -> None:
    """A fourth of the prompt's bytes and the bound of the output; the next request waits for the debt."""
    one = core(tokens_per_minute=6000)
    ask(one, "q1", body_bytes=4000, max_tokens=100)
    assert one.limits.left() == (b"", b"6000/0/11s")
    assert ask(one, "q2").limit == "tokens_per_minute of tenant/t"
    assert ask(one, "q3", 5.1).first == "r1"


def test_a_request_that_haproxy_asks_about_again_is_one_request() -> None:
    """As a held one asks."""
    one = core(requests_per_minute=10)
    assert {ask(one, "q1").first for _ in range(3)} == {"r1"}
    assert one.limits.left() == (b"10/0/6s", b"")


def test_the_end_of_a_request_makes_room() -> None:
    """Of one that no replica served, its tokens come back too."""
    one = core(concurrent_requests=1, tokens_per_minute=6000)
    ask(one, "q1", body_bytes=4000)
    assert ask(one, "q2").limit == "concurrent_requests of tenant/t" or ask(one, "q2").status == 429
    one.end_of_request.apply(line(id="q1", srv="<NOSRV>", first="r1", st=503), 1.0)
    assert ask(one, "q3", 1.0).first == "r1"
    one.end_of_request.apply(line(id="q3", srv="r1", first="r1"), 1.0)
    assert ask(one, "q4", 1.0).first == "r1"


def test_a_model_that_the_key_may_not_ask_for_is_forbidden() -> None:
    """By its name; other keys may."""
    one = core()
    key = ApiKey(id=KEY, tenant="t", hash="0" * 64, created_s=0.0, models=("other",))
    one.book.write(f"key/{KEY}", msgspec.to_builtins(key))
    forbidden = ask(one, "q1", key=KEY)
    assert (forbidden.status, forbidden.reason, forbidden.model) == (403, Reason.MODEL_FORBIDDEN, "m")
    assert ask(one, "q2", key="x" * 12).first == "r1"


def test_what_an_engine_reports_stands_in_place_of_the_estimate() -> None:
    """A prefill replica's part of a request counts with the rest of it, and what is sent twice counts once."""
    one = core(tokens_per_minute=60_000)
    ask(one, "q1", body_bytes=8000, max_tokens=100)
    assert one.limits.left() == (b"", b"60000/3900/3s")
    spent = [RequestUsage("q1", 1000, 400, 20), RequestUsage(f"q1{LEG_SUFFIX}", 300, 0, 0)]
    for snapshot in (True, False):
        one.engine_events("r1", EngineEvents(epoch="e", seq=0, snapshot=snapshot, usage=spent, usage_from=0), 0.0)
    assert one.limits.left() == (b"", b"60000/4680/2s")
