"""Usage added up by group, and as it is shown."""

from __future__ import annotations

from pointsman.router.tenancy.usage import UsageKey, UsageNames
from pointsman.router.tenancy.usage_report import UsageSums, moment, shown

HOUR = 494_532
"""2026-06-01 at noon, UTC."""

VALUES = (2.0, 100.0, 40.0, 10.0, 1.23456, 1.0, 50.0, 20.0, 5.0)


def test_rows_are_added_up_by_what_is_asked_for() -> None:
    """In the order of the groups."""
    sums = UsageSums(("tenant", "day"))
    for tenant, hour in (("zeta", HOUR), ("acme", HOUR), ("acme", HOUR + 1), ("acme", HOUR + 24)):
        sums.add([(UsageKey(hour, UsageNames(tenant, "", "m")), VALUES)])
    day = HOUR // 24
    assert [(group, values[:2]) for group, values in sums.groups()] == [
        (("acme", day), (4.0, 200.0)),
        (("acme", day + 1), (2.0, 100.0)),
        (("zeta", day), (2.0, 100.0)),
    ]


def test_a_line_has_names_figures_and_what_of_them_is_an_estimate() -> None:
    """Numbers are whole, but for the seconds; times are moments."""
    assert shown(("hour", "tenant"), (HOUR, "acme"), VALUES) == {
        "hour": "2026-06-01T12:00:00Z",
        "tenant": "acme",
        "requests": 2,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 10,
        "seconds": 1.235,
        "estimated": {"requests": 1, "prompt_tokens": 50, "cached_tokens": 20, "output_tokens": 5},
    }
    assert shown(("day",), (HOUR // 24,), VALUES)["day"] == "2026-06-01T00:00:00Z"
    assert moment(0) == "1970-01-01T00:00:00Z"
