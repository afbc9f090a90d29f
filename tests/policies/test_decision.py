"""The answer to a lookup, and the variables that HAProxy reads of it."""

from __future__ import annotations

from pointsman.policies.decision import Decision, Reason


def test_what_is_not_set_is_no_variable() -> None:
    """HAProxy's rules ask whether a variable exists, and an empty one would."""
    assert Decision(Reason.NO_CANDIDATES).variables() == {"reason": "no-candidates"}


def test_a_placed_request_names_its_replicas() -> None:
    """The prefill replica by its address; ids of pairing stay in the router."""
    decision = Decision(
        Reason.KV_HOME, "a", "b", prefill="p", prefill_address="10.0.0.1:8000", pairing="paired", scope="00ff",
        once=True, silence_ms=500,
    )  # fmt: skip
    assert decision.variables() == {
        "reason": "kv-home", "first": "a", "second": "b", "prefill": "10.0.0.1:8000", "scope": "00ff", "once": 1,
        "silence": 500,
    }  # fmt: skip


def test_a_refusal_says_when_to_come_back() -> None:
    """Also where that is at once; a request that may be held has the time, a model that is unknown its name."""
    refused = Decision(Reason.ADMISSION, status=429, retry_after_s=0, hold_ms=2500)
    assert refused.variables() == {"reason": "admission", "status": 429, "retry_after": 0, "hold": 2500}
    unknown = Decision(Reason.UNKNOWN_MODEL, status=404, model="gpt")
    assert unknown.variables() == {"reason": "unknown-model", "status": 404, "retry_after": 0, "model": "gpt"}
