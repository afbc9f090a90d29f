"""Health checks as people are shown them."""

from pointsman.haproxy.last_check import COLUMNS, CheckColumns, CheckRow, LastCheck
from pointsman.router.fleet.health_checks import HealthChecks, SeenCheck

WHERE = CheckColumns.among(COLUMNS)
WRONG = CheckRow(WHERE, "L7STS,404,7,,Layer7 wrong status")


def test_the_latest_look_counts() -> None:
    """With its time; a replica that nobody looked at has no check."""
    checks = HealthChecks()
    assert checks.of(0) is None
    checks.saw(0, WRONG, 5.0)
    checks.saw(0, CheckRow(WHERE, "L7OK,200,3,,Layer7 check passed"), 6.0)
    assert checks.of(0) == SeenCheck(LastCheck("L7OK", 200, 3, "Layer7 check passed", ""), 6.0)


def test_a_check_goes_with_its_replica() -> None:
    """The next one on the slot was not checked yet; nor was a server whose checks are off."""
    checks = HealthChecks()
    checks.saw(0, WRONG, 5.0)
    checks.clear_slot(0)
    assert checks.of(0) is None
    checks.saw(0, WRONG, 5.0)
    checks.saw(0, None, 6.0)
    assert checks.of(0) is None
    checks.saw(0, CheckRow(WHERE, "INI,,,,"), 7.0)
    assert checks.of(0) is None
