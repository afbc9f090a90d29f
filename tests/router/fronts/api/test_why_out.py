"""Why a replica gets no requests: one sentence, with what to look at."""

import pytest

from pointsman.contract.registration import Registration, Role
from pointsman.haproxy.last_check import LastCheck
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fronts.api.why_out import why_out
from pointsman.router.outliers.answers import Verdict
from pointsman.router.outliers.failure_accrual import Ejection

WRONG = LastCheck("L7STS", 404, 3, "Layer7 wrong status", "")
REFUSED = LastCheck("L4CON", 0, 0, "Layer4 connection problem", "Connection refused")
PASSED = LastCheck("L7OK", 200, 2, "Layer7 check passed", "")


def replica(
    health: Health = Health.UP, *, draining: bool = False, ejected: bool = False, probing: bool = False
) -> Replica:
    one = Replica(0, "gpu-1", "10.0.0.1", 8000, Registration(url="http://10.0.0.1:8000"), health, Role.BOTH)
    one.draining, one.ejected, one.probing = draining, ejected, probing
    return one


def why(one: Replica, check: LastCheck | None = None, ejection: Ejection | None = None) -> str | None:
    return why_out(one, check, ejection, 100.0, health_path="/health")


def test_a_replica_that_may_get_requests_has_no_reason() -> None:
    assert why(replica(), PASSED) is None


@pytest.mark.parametrize(
    ("check", "words"),
    [
        pytest.param(
            WRONG,
            "The health check GET /health failed: Layer7 wrong status, code 404; `health_path` of the registration "
            "names another path.",
            id="no such path",
        ),
        pytest.param(
            REFUSED,
            "The health check GET /health failed: Layer4 connection problem: Connection refused.",
            id="nobody listens",
        ),
        pytest.param(
            PASSED,
            "The last health check passed (Layer7 check passed, code 200), and HAProxy waits for the next "
            "ones to pass.",
            id="on its way back",
        ),
        pytest.param(None, "HAProxy counts the server as down and shows no health check.", id="no check"),
    ],
)
def test_a_replica_that_is_down_shows_its_last_health_check(check: LastCheck | None, words: str) -> None:
    """The path that was asked for, what came back, and what to do about a path that is not there."""
    assert why(replica(Health.DOWN), check) == words


def test_a_drained_replica_says_how_the_drain_ends() -> None:
    """And whether it would serve then."""
    words = "Drained: no further requests until DELETE /v1/replicas/gpu-1/drain ends that"
    assert why(replica(draining=True), PASSED) == f"{words}."
    sick = why(replica(Health.DOWN, draining=True), REFUSED)
    assert sick is not None and sick.startswith(f"{words}; the health check") and "Connection refused" in sick


def test_a_replica_that_nobody_checked_yet_says_so() -> None:
    assert why(replica(Health.STARTING)) == "Starting: no health check has ended yet."


def test_an_ejected_replica_says_what_failed_and_what_comes_next() -> None:
    """The next request is a probe, or there is a time before which none is."""
    ejection = Ejection(Verdict.ERROR, since_s=99.0, until_s=101.0, level=1, failures=5)
    waiting = why(replica(ejected=True), PASSED, ejection)
    assert waiting is not None and waiting.startswith(
        "Ejected after 5 failed answers, the last by error: probed from 2"
    )
    probing = why(replica(ejected=True, probing=True), PASSED, ejection)
    assert probing == "Ejected after 5 failed answers, the last by error: the next request probes it."
