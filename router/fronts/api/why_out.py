"""Why a replica gets no requests, in one sentence that says what to look at or what to do.

The state alone (`down`) is what an operator sees first, and the cause is what they ask for next: HAProxy's last health
check, the drain that somebody ordered, the answers that failed.
"""

from __future__ import annotations

from pointsman.haproxy.last_check import LastCheck
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.outliers.failure_accrual import Ejection
from pointsman.router.process.moments import moment

NOT_FOUND = 404


def why_out(
    replica: Replica, check: LastCheck | None, ejection: Ejection | None, now_s: float, *, health_path: str
) -> str | None:
    """Return why a replica gets no requests; None for one that may get some.

    check: the last health check that ended; None before one did.
    ejection: the ejection that the replica is in; None for one that is not ejected.
    health_path: path of the health check.
    """
    if replica.draining:
        drained = f"Drained: no further requests until DELETE /v1/replicas/{replica.id}/drain ends that"
        return f"{drained}; {_unhealthy(check, health_path)}" if replica.health is Health.DOWN else f"{drained}."
    if replica.health is Health.STARTING:
        return "Starting: no health check has ended yet."
    if replica.health is Health.DOWN:
        sentence = _unhealthy(check, health_path)
        return sentence[0].upper() + sentence[1:]
    if not replica.ejected or ejection is None:
        return None
    after = "the next request probes it" if replica.probing else f"probed from {moment(ejection.until_s, now_s)} on"
    answers = "answer" if ejection.failures == 1 else "answers"
    return f"Ejected after {ejection.failures} failed {answers}, the last by {ejection.cause}: {after}."


def _unhealthy(check: LastCheck | None, health_path: str) -> str:
    if check is None:
        return "HAProxy counts the server as down and shows no health check."
    if check.status.endswith("OK"):
        return f"the last health check passed ({check.detail}), and HAProxy waits for the next ones to pass."
    hint = "; `health_path` of the registration names another path" if check.code == NOT_FOUND else ""
    return f"the health check GET {health_path} failed: {check.detail}{hint}."
