"""Reports of usage wait until every router has kept them."""

from __future__ import annotations

import pytest

from pointsman.contract.events import RequestUsage
from pointsman.engine import usage_reports
from pointsman.engine.usage_reports import UsageReader, UsageReports


def reading(*names: str) -> tuple[UsageReports, UsageReader]:
    """Reports by these names, and a reader whose router reads them."""
    reports = UsageReports()
    reader = reports.read()
    reader.kept(0)
    for name in names:
        reports.add(RequestUsage(name))
    return reports, reader


def take(reader: UsageReader) -> tuple[int, list[str]]:
    begin, usage = reader.take()
    return begin, [report.id for report in usage]


def test_reports_are_sent_once_and_kept_until_the_router_has() -> None:
    """Numbered on."""
    reports, reader = reading("a", "b")
    assert take(reader) == (0, ["a", "b"])
    assert not reader.waits and take(reader) == (0, [])
    reports.add(RequestUsage("c"))
    assert take(reader) == (2, ["c"])
    assert len(reports) == 3
    reader.kept(2)
    assert len(reports) == 1
    reader.kept(3)
    assert len(reports) == 0 and reports.lost == 0


def test_what_was_not_kept_is_sent_again() -> None:
    """After a failure; not what was kept before."""
    _, reader = reading("a", "b", "c")
    take(reader)
    reader.kept(1)
    reader.again()
    assert take(reader) == (1, ["b", "c"])


def test_a_router_that_kept_less_than_it_said_gets_what_is_there() -> None:
    """As one whose file was restored from a copy."""
    _, reader = reading("a", "b")
    take(reader)
    reader.kept(1)
    reader.kept(0)
    reader.again()
    assert take(reader) == (1, ["b"])


def test_every_router_has_a_position_of_its_own() -> None:
    """The slowest one decides what is kept; one that leaves is waited for no longer."""
    reports, first = reading("a", "b")
    second = reports.read()
    take(first)
    first.kept(2)
    assert len(reports) == 2
    reports.leave(second)
    assert len(reports) == 0


def test_a_router_that_reads_none_is_sent_none() -> None:
    """It would refuse the message; and nothing waits for it."""
    reports = UsageReports()
    reader = reports.read()
    reports.add(RequestUsage("a"))
    assert not reader.waits and take(reader) == (0, [])
    reader.kept(-1)
    assert len(reports) == 0


def test_the_oldest_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted as lost; a message has a bound of its own."""
    monkeypatch.setattr(usage_reports, "MAX_REPORTS", 3)
    monkeypatch.setattr(usage_reports, "MAX_SENT", 2)
    reports, reader = reading("a", "b", "c", "d")
    assert reports.lost == 1
    assert take(reader) == (1, ["b", "c"])
    assert reader.waits and take(reader) == (3, ["d"])
