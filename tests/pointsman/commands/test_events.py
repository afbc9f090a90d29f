"""`pointsman events`: what changed, when, by whom."""

from __future__ import annotations

import json
from datetime import UTC

import pytest
from drawn import assert_fits, drawn, pointsman
from telling_admin import Told, telling_admin

from pointsman.commands import tail
from pointsman.commands.events import event_line, event_list

EJECTED = {"id": 1, "at": "2026-11-30T12:03:00.100Z", "kind": "replica", "text": "chat-3 is ejected: error"}
CALLED = {
    "id": 2,
    "at": "2026-11-30T12:04:00.000Z",
    "kind": "audit",
    "author": "somebody.with.a.long.name@example.org",
    "text": "policy kv_cost is live, version 7d3f; " * 3,
}


def test_events_are_rows_whose_text_wraps() -> None:
    """Nothing of what happened is cut off."""
    text = drawn(event_list([EJECTED, CALLED], UTC))
    assert_fits(text)
    assert text.splitlines()[1] == "2026-11-30 12:03:00  replica  -                 chat-3 is ejected: error"
    assert text.count("version 7d3f") == 3


def test_an_event_is_a_line_as_it_happens() -> None:
    """With its author, if it has one."""
    assert event_line(EJECTED, UTC) == "12:03:00  replica   chat-3 is ejected: error"
    assert event_line(CALLED | {"text": "x"}, UTC).endswith("audit     x  by somebody.with.a.long.name@example.org")
    assert "left out" in event_line({"missed": 3}, UTC)


def test_no_event_says_so() -> None:
    """A router that has just started."""
    assert drawn(event_list([], UTC)).startswith("no event")


def test_events_are_followed_after_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Ctrl-C."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tail.time, "sleep", interrupt)
    with telling_admin({"GET /v1/events": Told(lines=(b"", json.dumps(EJECTED).encode()))}) as admin:
        done = pointsman("events", "-f", "-n", "3", "--kind", "replica", "--admin", admin.url)
        assert admin.asked[0].query == {"limit": "3", "kind": "replica", "follow": "true"}
    assert done.exit_code == 0 and "chat-3 is ejected" in done.stdout
