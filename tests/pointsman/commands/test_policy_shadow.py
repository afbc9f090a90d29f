"""`pointsman policy shadow`: a policy beside the live one."""

from __future__ import annotations

from typing import Any

from drawn import assert_fits, drawn, pointsman
from shown_things import NOW, TRIED
from telling_admin import Told, problem, telling_admin

from pointsman.commands.policy_shadow import shadow_shown

SHADOW: dict[str, Any] = {
    "state": "running",
    "document": {"policy": "least_load"},
    "sample": 0.5,
    "author": "ops",
    "why": "is it worth it",
    "started_at": "2026-11-30T11:00:00Z",
    "since": "2026-11-30T11:52:31Z",
    "errors": 0,
    "result": TRIED["result"],
    "decision_us": {"mean": 41.2, "longest": 812.0},
    "warnings": ["HAProxy looks at less of bodies than the policy needs."],
}


def test_the_shadow_is_compared_since_the_live_policy_is_what_it_is() -> None:
    """With what a decision of it costs."""
    text = drawn(shadow_shown(SHADOW, NOW))
    assert_fits(text)
    assert text.startswith("least_load  running beside the live policy for 65 min, by ops: is it worth it\n")
    assert "it decides 50.0 % of the requests" in text and "takes 41 us, at most 812 us" in text
    assert "compared for 12 min:" in text and "42.0 %, 412 requests" in text and "note: HAProxy looks" in text


def test_a_shadow_that_failed_is_exit_code_1() -> None:
    """With its last exception."""
    failed = SHADOW | {"state": "failed", "errors": 11, "error": "KeyError: 'x'"}
    with telling_admin({"GET /v1/policy/shadow": failed}) as admin:
        done = pointsman("policy", "shadow", "--admin", admin.url)
    assert done.exit_code == 1 and "! 11 errors: KeyError: 'x'" in done.stdout


def test_a_shadow_is_put_and_taken_away() -> None:
    """Both at once is a mistake of the command line."""
    answers = {"PUT /v1/policy/shadow": SHADOW, "DELETE /v1/policy/shadow": Told(None, 204)}
    with telling_admin(answers) as admin:
        where = ("--admin", admin.url)
        assert pointsman("policy", "shadow", "least_load", "--sample", "0.5", "--why", "w", *where).exit_code == 0
        assert admin.asked[-1].body == {"document": {"policy": "least_load"}, "sample": 0.5, "why": "w"}
        assert pointsman("policy", "shadow", "--off", *where).stdout == "the shadow is taken away\n"
        assert pointsman("policy", "shadow", "random", "--off", *where).exit_code == 2


def test_no_shadow_is_exit_code_1() -> None:
    """The router was asked, and there is none."""
    with telling_admin({"GET /v1/policy/shadow": problem(404, "no policy decides beside the live one")}) as admin:
        done = pointsman("policy", "shadow", "--admin", admin.url)
    assert (done.exit_code, done.stderr) == (1, "pointsman: no policy decides beside the live one\n")
