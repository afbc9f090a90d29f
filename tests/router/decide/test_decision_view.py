"""A past decision as people read it."""

from __future__ import annotations

import msgspec
import pytest
from recorded_fleet import CHAIN, RecordedFleet
from ring_line import line

from pointsman.router.decide.decision_view import DecisionViews


def shown(fleet: RecordedFleet, request_id: str, *, detail: bool = True) -> dict:
    return msgspec.to_builtins(fleet.view(request_id, detail=detail))


def test_a_view_has_what_the_record_has() -> None:
    """The whole document of one request of a conversation."""
    fleet = RecordedFleet()
    home = fleet.ask("one", keys=20, session="s", model="").first
    fleet.report(home, stored=list(CHAIN[:20]))
    fleet.answer("one", home, prompt=2500)
    fleet.end("one", home)
    fleet.ask("two", keys=22, session="s", path="/v1/chat/completions", tenant="acme", now_s=2.0)
    fleet.answer("two", home, prompt=2700, cached=2496, now_s=2.2)
    fleet.end("two", home, now_s=2.6, cid="trace-7", ttft="61", bytes=900)
    view = shown(fleet, "two")
    assert {name: view[name] for name in ("id", "at", "client_id", "path", "session", "tenant", "reason", "first")} == {
        "id": "two",
        "at": "2023-11-14T22:13:22.000Z",
        "client_id": "trace-7",
        "path": "/v1/chat/completions",
        "session": "s",
        "tenant": "acme",
        "reason": "kv-home",
        "first": home,
    }
    assert view["policy"] == {"name": "kv_cost", "revision": 1}
    assert view["resident_tokens"] == view["outcome"]["predicted_cached"] > 2000
    outcome = {**view["outcome"]}
    assert outcome.pop("predicted_cached") > 0
    assert outcome == {
        "replica": home,
        "status": 200,
        "ttft_ms": 61.0,
        "duration_ms": 300,
        "prompt_tokens": 2700,
        "actual_cached": 2496,
        "output_tokens": 50,
        "decode_ms": 400.0,
        "ended": "stop",
    }
    chosen, other = view["candidates"]
    assert (chosen["replica"], chosen["is_home"]) == (home, True)
    assert set(chosen["terms"]) == {"queue", "miss", "evict", "interference", "tie"}
    assert chosen["score"] == pytest.approx(sum(chosen["terms"].values()), abs=0.01) == pytest.approx(view["score"])
    assert "is_home" not in other and other["score"] > chosen["score"]
    assert view["would_change"].startswith(f"It leaves {home} for {other['replica']} when the queue of {home} is ")


def test_lists_leave_candidates_out() -> None:
    fleet = RecordedFleet()
    fleet.ask("r")
    assert not {"candidates", "excluded", "would_change"} & set(shown(fleet, "r", detail=False))


def test_what_is_not_known_is_absent() -> None:
    """A request in flight has no outcome, and one that HAProxy placed alone has no decision."""
    fleet = RecordedFleet(policy="round_robin")
    fleet.ask("r")
    assert "outcome" not in shown(fleet, "r") and "prompt_tokens" not in shown(fleet, "r")
    fleet.end("alone", "a", reason="fail-open", routed="2", ta=-1, st=-1)
    view = shown(fleet, "alone")
    assert (view["reason"], view["outcome"]) == ("fail-open", {"replica": "a", "ended": "complete"})
    assert "policy" not in view and "first" not in view


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ({"ts": "CD"}, "client"),
        ({"ts": "cD"}, "client"),
        ({"ts": "SD"}, "replica"),
        ({"ts": "sH"}, "replica"),
        ({"ts": "LR"}, "edge"),
        ({"ts": "--"}, "complete"),
    ],
)
def test_who_ended_a_request_is_said(said: dict, ended: str) -> None:
    fleet = RecordedFleet()
    chosen = fleet.ask("r").first
    fleet.end("r", chosen, **said)
    assert shown(fleet, "r")["outcome"]["ended"] == ended


def test_a_refused_request_says_so() -> None:
    fleet = RecordedFleet()
    for name in ("a", "b"):
        fleet.add(name, model="m")
    fleet.ask("r", model="nobody")
    fleet.end("r", "<NOSRV>", st=404, ts="LR")
    view = shown(fleet, "r")
    assert (view["status"], view["outcome"]["ended"], view["outcome"]["status"]) == (404, "refused", 404)
    assert "replica" not in view["outcome"]


def test_the_prediction_is_that_of_the_replica_that_served() -> None:
    """A request that failed on its first choice went to one of which less was predicted."""
    fleet = RecordedFleet("a", "b")
    fleet.report("a", stored=list(CHAIN[:20]))
    assert fleet.ask("r", keys=20).first == "a"
    fleet.core.end_of_request.apply(line(id="r", srv="b", first="a", rc="+1"), 1.0)
    view = shown(fleet, "r")
    assert view["resident_tokens"] > 0
    assert (view["outcome"]["replica"], view["outcome"]["predicted_cached"]) == ("b", 0)
    assert view["outcome"]["retries"] == 1


def test_sessions_and_tenants_are_hashed_with_a_key() -> None:
    """Equal names have equal hashes under one key, and others under another."""
    fleet = RecordedFleet()
    fleet.ask("r", session="secret", tenant="acme")
    texts = set()
    for key in ("one", "two"):
        fleet.views = DecisionViews(fleet.core.policy.policy_of, secret=key)
        view = shown(fleet, "r")
        assert view["session"] == fleet.views.shown("secret") != "secret" and view["tenant"] != "acme"
        texts.add(view["session"])
    assert len(texts) == 2


def test_terms_are_those_of_the_policy_that_was_live() -> None:
    """Another policy since then changes nothing about the past; a policy without terms has none."""
    fleet = RecordedFleet()
    fleet.ask("then", keys=5)
    before = shown(fleet, "then")
    fleet.core.policy.put({"policy": "kv_cost", "tie_ms": 500.0})
    assert shown(fleet, "then") == before
    fleet.ask("now", keys=5)
    assert shown(fleet, "now")["policy"] == {"name": "kv_cost", "revision": 2}
    assert shown(fleet, "now")["candidates"] != before["candidates"]
    fleet.core.policy.put({"policy": "random"})
    fleet.ask("random")
    assert "terms" not in shown(fleet, "random")["candidates"][0]


def test_a_large_fleet_says_how_many_candidates_there_were() -> None:
    fleet = RecordedFleet(*(f"r{number}" for number in range(80)))
    fleet.ask("r", keys=3)
    view = shown(fleet, "r")
    assert view["candidates_total"] == 80 and 0 < len(view["candidates"]) < 80
    assert view["candidates"][0]["replica"] == view["first"]


def test_bytes_that_are_no_text_do_not_break_a_view() -> None:
    """Names of clients may hold anything."""
    fleet = RecordedFleet()
    fleet.ask("r", session="\udcff", model="")
    assert msgspec.json.encode(fleet.view("r"))
