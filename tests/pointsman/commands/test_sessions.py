"""`pointsman sessions`: where sessions live; one moved, one forgotten."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from drawn import assert_fits, drawn, pointsman
from telling_admin import Told, problem, telling_admin

from pointsman.commands.sessions import session_facts, session_list


def session(key: str = "ab12", **about: Any) -> dict[str, Any]:
    return {
        "key": key,
        "tenant": "",
        "replica": "chat-1",
        "state": "pausing",
        "moving": False,
        "pinned": False,
        "tokens": 38_211,
        "turns": 12,
        "in_flight": 0,
        "last_active": "2026-11-30T12:04:31.213Z",
        "idle_s": 4.2,
        "idle_timeout_left_s": 26.0,
        "forgotten_in_s": 3_600.0,
    } | about


def test_sessions_are_rows() -> None:
    """Long keys are shortened in the table alone, columns without a value are left out."""
    long = session("a-session-with-a-very-long-name-of-a-client-0042", moving=True, tenant="team-a", turns=None)
    text = drawn(session_list([session(), long], more=True))
    assert_fits(text)
    head, first, second, more = text.splitlines()
    assert head.split() == [
        *("session", "tenant", "replica", "state", "tokens", "turns"),
        *("in", "flight", "idle", "gone", "in"),
    ]
    assert first.split() == ["ab12", "-", "chat-1", "pausing", "38k", "12", "0", "4", "s", "60", "min"]
    assert "pausing, moving" in second and "…" in second and more.startswith("there are more")


def test_no_session_says_so() -> None:
    """Or that none matches."""
    assert drawn(session_list([])) == "no session is known\n"
    assert drawn(session_list([], chosen=True)) == "no session matches\n"


def test_a_session_is_described() -> None:
    """What is not known has no line."""
    text = drawn(session_facts(session(pinned=True), UTC))
    assert text.startswith("ab12  pausing  on chat-1\n")
    assert "to chat-1 by the live policy" in text and "38,211 in 12 requests" in text and "4 s ago" in text
    little = drawn(session_facts(session(tokens=None, in_flight=None, idle_timeout_left_s=None), UTC))
    assert "tokens" not in little and "in flight" not in little and "counts as live" not in little


def test_a_session_is_moved_and_forgotten_by_its_key() -> None:
    """A slash in it stays in it; a tenant is a parameter."""
    answers = {
        "PUT /v1/sessions/a%2Fb": session("a/b", replica="chat-2", moving=True),
        "DELETE /v1/sessions/a%2Fb": Told(None, 204),
        "GET /v1/sessions/a%2Fb": session("a/b"),
    }
    with telling_admin(answers) as admin:
        moved = pointsman("sessions", "a/b", "--move", "chat-2", "--tenant", "t", "--admin", admin.url)
        assert moved.stdout == "a/b: its next request goes to chat-2\n"
        assert admin.asked[-1].body == {"replica": "chat-2"} and admin.asked[-1].query == {"tenant": "t"}
        assert "a/b is forgotten" in pointsman("sessions", "a/b", "--forget", "--admin", admin.url).stdout
        assert pointsman("sessions", "a/b", "--forget", "--json", "--admin", admin.url).stdout == ""
        assert pointsman("sessions", "a/b", "--admin", admin.url).stdout.startswith("a/b  pausing")


def test_a_move_that_is_refused_is_exit_code_1() -> None:
    """In the router's words."""
    answers = {"PUT /v1/sessions/s": problem(409, "replica 'chat-4' gets no requests: Drained: ...")}
    with telling_admin(answers) as admin:
        done = pointsman("sessions", "s", "--move", "chat-4", "--admin", admin.url)
        assert done.exit_code == 1 and "gets no requests" in done.stderr


@pytest.mark.parametrize("words", [("--forget",), ("--move", "r"), ("s", "--move", "r", "--forget")])
def test_an_order_without_a_session_is_exit_code_2(words: tuple[str, ...]) -> None:
    """As are two orders at once; nobody is asked."""
    done = pointsman("sessions", *words, "--admin", "127.0.0.1:1")
    assert done.exit_code == 2 and "--forget" in done.stderr and "refused" not in done.stderr
