"""The fault matrix: what is counted, and how it is shown."""

from __future__ import annotations

from bench.faults import Cell, FaultOptions, back_table, failed_table, percent, requests, slow_table
from bench.load import Exchange, Outcome
from bench.survival import SCENES, spread


class Answer:
    """As much of an answer as a spread looks at."""

    def __init__(self, replica: str) -> None:
        self.headers = {"x-pointsman-replica": replica}


def test_a_cell_counts_what_clients_saw() -> None:
    """Good answers by replica, failed ones by status or by how they ended."""
    cell = Cell("p", "500", "open", 1)
    cell(Exchange(0.0, outcome=Outcome.OK, replica="a"))
    cell(Exchange(0.0, outcome=Outcome.STATUS, status=500, replica="b"))
    cell(Exchange(0.0, outcome=Outcome.CUT, replica="b"))
    cell(Exchange(0.0, outcome=Outcome.OK, replica="a"))
    assert (cell.requests, cell.failed_share, dict(cell.served)) == (4, 0.5, {"a": 2})
    assert cell.figures()["failed"] == {"500": 1, "cut": 1}


def test_an_empty_cell_failed_nothing() -> None:
    """No load came through, so no share is known."""
    assert Cell("p", "hang", "closed", 1).failed_share == 0.0


def test_the_table_has_a_row_a_policy_and_a_column_a_fault() -> None:
    """In the order in which they were played."""
    cells = [Cell(policy, fault, "open", 1) for policy in ("x", "y") for fault in ("500", "503")]
    for cell in cells:
        cell(Exchange(0.0, outcome=Outcome.OK if cell.fault == "503" else Outcome.UNANSWERED))
    table = failed_table(cells, FaultOptions())
    assert table.columns == ["policy", "1 of 4: 500, open", "1 of 4: 503, open"]
    assert table.rows == [["x", "100.0 %", "0.0 %"], ["y", "100.0 %", "0.0 %"]]


def test_the_share_of_a_slow_replica_is_shown_before_and_after() -> None:
    """The slow one is the last of the fleet."""
    before, after = Cell("x", "none", "open", 0), Cell("x", "slow", "open", 1)
    before.served.update({"sim-1": 3, "sim-4": 1})
    after.served.update({"sim-1": 99, "sim-4": 1})
    assert slow_table({"x": (before, after)}, FaultOptions()).rows == [["x", "25.0 %", "1.0 %", "0.0 %"]]
    assert back_table({"500": 1.234}, FaultOptions()).rows == [["500", "1.23"]]


def test_conversations_have_five_turns() -> None:
    """So that affinity has something to hold on to."""
    made = requests(FaultOptions(), "p")
    sessions = [next(made).head.partition(b"x-session-id: ")[2].partition(b"\r\n")[0] for _ in range(6)]
    assert sessions == [b"p-0"] * 5 + [b"p-1"]


def test_a_spread_is_the_most_over_the_mean() -> None:
    """Four replicas: even is 1, all on one is 4."""
    assert spread([Answer(name) for name in "abcd" * 3]) == 1.0  # type: ignore[arg-type]
    assert spread([Answer("a")] * 8) == 4.0  # type: ignore[arg-type]


def test_each_scene_says_what_it_does() -> None:
    """Progress is told by the first line of its docstring."""
    assert all((scene.__doc__ or "").strip().endswith(".") for scene in SCENES)
    assert percent(0.1234) == "12.3 %"
