"""What the end of one request proves about its replica."""

import pytest

from pointsman.router.outliers.answers import Verdict, judge


@pytest.mark.parametrize(
    ("status", "termination", "answered", "verdict"),
    [
        pytest.param(200, "--", True, Verdict.GOOD, id="whole-answer"),
        pytest.param(404, "--", True, Verdict.GOOD, id="the-clients-own-mistake"),
        pytest.param(500, "--", True, Verdict.ERROR, id="error"),
        pytest.param(501, "--", True, Verdict.GOOD, id="not-implemented"),
        pytest.param(503, "--", True, Verdict.BACKPRESSURE, id="full"),
        pytest.param(429, "--", True, Verdict.BACKPRESSURE, id="rate-limited"),
        pytest.param(503, "SC", False, Verdict.UNREACHABLE, id="connection-refused"),
        pytest.param(502, "SH", False, Verdict.DROPPED, id="reset-before-the-answer"),
        pytest.param(504, "sH", False, Verdict.TIMEOUT, id="silent-before-the-answer"),
        pytest.param(200, "SD", True, Verdict.CUT, id="cut"),
        pytest.param(200, "sD", True, Verdict.TIMEOUT, id="silent-in-the-answer"),
        pytest.param(502, "PH", False, Verdict.ERROR, id="not-http"),
        pytest.param(200, "CD", True, Verdict.NEUTRAL, id="client-left-in-the-answer"),
        pytest.param(-1, "CH", False, Verdict.UNANSWERED, id="client-gave-up-waiting"),
        pytest.param(-1, "CQ", False, Verdict.NEUTRAL, id="client-left-in-the-queue"),
        pytest.param(503, "PR", False, Verdict.NEUTRAL, id="refused-by-a-rule"),
        pytest.param(503, "RC", False, Verdict.NEUTRAL, id="edge-out-of-descriptors"),
        pytest.param(500, "CD", True, Verdict.ERROR, id="client-left-in-an-error"),
    ],
)
def test_a_line_proves(status: int, termination: str, answered: bool, verdict: Verdict) -> None:
    """By status and termination state, as HAProxy writes them."""
    assert judge(status, termination, answered=answered) is verdict
