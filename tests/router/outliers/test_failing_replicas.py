"""Every policy in front of replicas that fail and go on answering their health checks.

The same promises for all policies with their defaults, in virtual time through the real pipeline: a policy of your own
joins by being installed where these tests run.
"""

import pytest
from failing_fleet import ANSWER_S, FailingFleet, Mode

from pointsman.policies.registry import installed_policies
from pointsman.router.outliers.failure_accrual import OutlierConfig

PLAYED_S = 15.0
FAIR = 0.25


@pytest.fixture(params=sorted(installed_policies()))
def policy(request: pytest.FixtureRequest) -> dict[str, object]:
    return {"policy": request.param}


@pytest.mark.parametrize("mode", [Mode.ERROR, Mode.CUT])
@pytest.mark.parametrize("load", ["closed", "open"])
def test_one_failing_replica_costs_few_requests(policy: dict[str, object], mode: Mode, load: str) -> None:
    """A tenth of the requests at most, though it is idle all the time and its fair share would be a quarter."""
    fleet = FailingFleet(policy)
    fleet.modes["r4"] = mode
    seen = fleet.closed(PLAYED_S) if load == "closed" else fleet.open(PLAYED_S)
    assert seen.failed_share <= 0.10, seen


def test_without_outlier_detection_it_costs_its_fair_share_and_more(policy: dict[str, object]) -> None:
    """The load of these tests would show the fault."""
    fleet = FailingFleet(policy, config=OutlierConfig(enabled=False))
    fleet.modes["r4"] = Mode.ERROR
    assert fleet.closed(2.0, clients=8).failed_share > 0.9 * FAIR


@pytest.mark.parametrize("mode", [Mode.FULL, Mode.DROP])
@pytest.mark.parametrize("load", ["closed", "open"])
def test_a_full_replica_costs_nobody_an_answer(policy: dict[str, object], mode: Mode, load: str) -> None:
    """Its requests go to the second choice, within the retry budget, and nobody is ejected for being full."""
    fleet = FailingFleet(policy)
    fleet.modes["r4"] = mode
    seen = fleet.closed(PLAYED_S) if load == "closed" else fleet.open(PLAYED_S)
    assert seen.failed_share <= 0.02, seen
    assert seen.retried <= 0.2 * seen.requests + 10
    assert not fleet.outliers.ejected


def test_a_replica_that_hangs_is_found_by_clients_that_give_up(policy: dict[str, object]) -> None:
    """No line comes before the first client loses patience; from then on a few probes hang."""
    fleet = FailingFleet(policy)
    fleet.modes["r4"] = Mode.HANG
    seen = fleet.open(3 * PLAYED_S)
    assert seen.failed_share <= 0.15, seen


def test_two_of_four_failing_replicas_are_out_both(policy: dict[str, object]) -> None:
    """Half of a model's replicas may be ejected, so the other half serves nearly everything."""
    fleet = FailingFleet(policy)
    fleet.modes |= {"r3": Mode.ERROR, "r4": Mode.CUT}
    assert fleet.closed(PLAYED_S).failed_share <= 0.10
    assert fleet.outliers.ejected.keys() == {("r3", "error"), ("r4", "cut")}


def test_when_three_of_four_fail_the_good_one_serves_most_of_what_is_served(policy: dict[str, object]) -> None:
    """Nobody is ejected then, and the three keep a tenth each."""
    fleet = FailingFleet(policy)
    fleet.modes |= dict.fromkeys(("r2", "r3", "r4"), Mode.ERROR)
    fleet.open(5.0)
    assert fleet.open(PLAYED_S).failed_share <= 0.5


def test_when_all_fail_nobody_is_ejected(policy: dict[str, object]) -> None:
    """Clients see the replicas' own errors, from all of them."""
    fleet = FailingFleet(policy)
    fleet.modes = dict.fromkeys(fleet.modes, Mode.ERROR)
    fleet.open(PLAYED_S)
    assert not any(replica.ejected for replica in fleet.replicas)


def test_a_replica_that_is_well_again_comes_back(policy: dict[str, object]) -> None:
    """The first good answer to a probe ends the ejection; then it has its share again."""
    fleet = FailingFleet(policy)
    fleet.modes["r4"] = Mode.ERROR
    fleet.open(PLAYED_S)
    fleet.modes["r4"] = Mode.WELL
    ejection = fleet.outliers.ejection(fleet.replicas.slot_of("r4"))
    assert ejection is not None
    fleet.run(ejection.until_s - fleet.now_s)
    fleet.open(4.0)
    assert fleet.outliers.ejection(fleet.replicas.slot_of("r4")) is None
    assert fleet.open(10.0).served["r4"] >= 0.1 * 600


def test_one_replica_alone_is_never_ejected(policy: dict[str, object]) -> None:
    """Its own errors say more than an edge without a replica."""
    fleet = FailingFleet(policy, replicas=1)
    fleet.modes["r1"] = Mode.ERROR
    fleet.open(5.0)
    assert not fleet.outliers.probing
    assert fleet.open(1.0).requests == 60


def test_a_fleet_that_is_well_is_left_alone(policy: dict[str, object]) -> None:
    """No ejection, no demotion, no retry."""
    fleet = FailingFleet(policy)
    seen = fleet.closed(PLAYED_S)
    assert seen.failed == seen.retried == 0
    assert not fleet.outliers.ejected and not fleet.outliers.demoted
    assert seen.requests >= 0.9 * 32 * PLAYED_S / ANSWER_S
