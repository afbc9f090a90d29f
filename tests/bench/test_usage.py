"""What counting usage costs, as a table."""

from __future__ import annotations

from bench.usage import PARTS, UsageOptions, measure, table


def test_each_part_is_measured_and_all_requests_are_counted() -> None:
    """The bench itself compares what was counted with what was reported."""
    assert len(measure(80)) == len(PARTS)


def test_the_least_of_all_parts_add_up() -> None:
    """Beside the rounds, whose parts belong together."""
    shown = table([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 5.0]], UsageOptions.quick())
    assert [row[0] for row in shown.rows] == [*PARTS, "all"]
    assert [row[1] for row in shown.rows] == ["1.00", "1.00", "3.00", "4.00", "9.00"]
    assert shown.rows[-1][2] == "10.50 (10.00-11.00)"
