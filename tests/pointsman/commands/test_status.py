"""`pointsman status`: an edge in one look, and exit code 1 exactly when a line says that something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawn import WIDTH, assert_fits, drawn, pointsman
from golden import assert_golden
from shown_things import LIVE, NOW, STATUS
from telling_admin import telling_admin

from pointsman.commands.status import NAMED_MAX, status_shown, troubles

GOLDEN = Path(__file__).parent / "golden"

WELL: dict[str, Any] = STATUS | {
    "state": "ready",
    "degraded": [],
    "replicas": {"total": 3, "by_state": {"up": 3}, "out": []},
    "edges": [],
    "held": 0,
}


def test_each_trouble_has_a_line_and_the_command_that_shows_more() -> None:
    """At the right where there is room, else below."""
    text = drawn(status_shown(STATUS, LIVE, NOW, width=WIDTH))
    assert_golden(GOLDEN / "status.txt", text)
    assert_fits(text)


def test_an_edge_that_is_well_is_one_line_on_a_wide_terminal() -> None:
    """The whole state in one look."""
    text = drawn(status_shown(WELL, LIVE | {"ttft_ms": {"m": LIVE["ttft_ms"]["qwen3-8b"]}}, NOW, width=220), width=220)
    assert text == (
        "edge-1   ready   policy kv_cost r17 (12 min ago, by ops)   replicas 3 up   req/s 812   "
        "ttft p50 61 ms p99 640 ms   hit 94.4 % of 94.6 %   regret 3.1 ms   up 3 h\n"
    )


def test_a_router_without_figures_of_traffic_shows_its_state() -> None:
    """`/v1/live` is of a later version."""
    text = drawn(status_shown(WELL, {}, NOW, width=WIDTH))
    assert text == "edge-1   ready   policy kv_cost   replicas 3 up   up 3 h\n"


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        ({}, False),
        ({"edges": [{"name": "b", "admin_url": "", "state": "in-step"}]}, False),
        ({"edges": [{"name": "b", "admin_url": "", "state": "silent"}]}, True),
        ({"not_ready": ["no replica can serve"]}, True),
        ({"degraded": ["state file: no space left"]}, True),
        ({"replicas": {"total": 1, "by_state": {"draining": 1}, "out": []}}, False),
        ({"replicas": STATUS["replicas"]}, True),
    ],
)
def test_the_exit_code_says_whether_a_line_does(about: dict[str, Any], wrong: bool) -> None:
    """A drain is what somebody asked for; an ejection is not."""
    with telling_admin({"GET /v1/status": WELL | about, "GET /v1/live": LIVE}) as admin:
        done = pointsman("status", "--admin", admin.url)
    assert done.exit_code == int(wrong)
    assert any(line.startswith("! ") for line in done.stdout.splitlines()) == wrong


def test_json_is_the_state_alone() -> None:
    """One answer, not two mixed; the exit code is the same."""
    with telling_admin({"GET /v1/status": STATUS}) as admin:
        done = pointsman("status", "--json", "--admin", admin.url)
        assert done.exit_code == 1 and done.stdout.startswith('{"state": "degraded"')
        assert [asked.path for asked in admin.asked] == ["/v1/status"]


def test_of_a_large_fleet_some_are_named_and_the_rest_is_counted() -> None:
    """Five hundred lines would hide the first."""
    out = [
        {"replica": f"r{at}", "model": "m", "state": "down", "since": "2026-11-30T12:00:00Z", "why": "x"}
        for at in range(100)
    ]
    status = WELL | {"replicas": {"total": 500, "by_state": {"up": 250, "down": 250}, "out": out}}
    lines = list(troubles(status, NOW))
    assert len(lines) == NAMED_MAX + 1
    assert lines[-1] == ("240 more replicas are down or ejected", "pointsman replicas")


def test_a_router_that_cannot_be_asked_is_exit_code_2() -> None:
    """Neither well nor unwell: nobody knows."""
    done = pointsman("status", "--admin", "127.0.0.1:1")
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1


def test_requests_that_wait_are_told_by_class() -> None:
    """And the tenant with the most of them, where there are several; a router of before says the number alone."""
    text = drawn(status_shown(WELL | {"held": 2, "queue": STATUS["queue"]}, {}, NOW, width=WIDTH), width=WIDTH)
    assert "2 held: 1 normal, 1 batch, 1 of night, longest 12 s" in text
    assert "2 held   " in drawn(status_shown(WELL | {"held": 2, "queue": None}, {}, NOW, width=WIDTH), width=WIDTH)
