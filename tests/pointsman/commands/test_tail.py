"""`pointsman tail`: one line for each decision as it ends, again after the router was away."""

from __future__ import annotations

import json
from datetime import UTC

import pytest
from drawn import assert_fits, pointsman
from shown_things import DECISION, REFUSED, UNDER_WAY
from telling_admin import Told, problem, telling_admin

from pointsman.admin_client import AdminClient
from pointsman.admin_place import Place
from pointsman.commands import tail
from pointsman.commands.tail import follow, heading, tail_line


def test_columns_stand_below_their_names() -> None:
    """Whatever the length of a name."""
    lines = [heading(), *(tail_line(view, UTC) for view in (DECISION, REFUSED, UNDER_WAY))]
    assert lines == [
        "at          reason         replica       session     prompt  cached      TTFT      took  status",
        "12:04:31.2  kv-home        chat-1        ab12           38k     38k     58 ms  3,214 ms  200",
        "12:04:30.0  admission      -             -                -       -         -  2,003 ms  429 refused",
        "12:04:29.9  kv-moved       chat-2        a-sess…042     61k     410         -         -  -",
    ]
    assert_fits("\n".join(lines))


def test_a_cut_request_says_by_whom() -> None:
    """A normal end says nothing."""
    cut = DECISION | {"outcome": DECISION["outcome"] | {"ended": "client"}}
    assert tail_line(cut, UTC).endswith("200 client")


def test_what_a_slow_terminal_missed_is_said() -> None:
    """The router drops what nobody reads."""
    assert tail_line({"missed": 12}, UTC) == "(12 decisions were left out: this reader is too slow)"


def test_filters_and_the_past_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the stream ended, the router is asked for what comes alone."""
    pauses: list[float] = []
    monkeypatch.setattr(tail.time, "sleep", pauses.append)
    line = json.dumps(DECISION).encode()
    ended = Told(lines=(b"", line))
    shown: list[bytes] = []

    def show(document: bytes) -> None:
        shown.append(document)
        if len(shown) == 2:
            raise KeyboardInterrupt

    with telling_admin({"GET /v1/decisions": [ended, Told(b"gone", 502), ended]}) as admin:
        with AdminClient(Place(admin.url)) as client:
            assert follow(client, "/v1/decisions", show, last=5, model="m") == 0
        queries = [asked.query for asked in admin.asked]
    assert shown == [line, line] and len(pauses) == 2
    assert queries == [
        {"limit": "5", "model": "m", "follow": "true"},
        {"model": "m", "follow": "true"},
        {"model": "m", "follow": "true"},
    ]


def test_a_router_that_cannot_be_asked_at_first_is_not_asked_again() -> None:
    """A wrong address is a mistake, not a restart; a wrong filter is the answer no."""
    with telling_admin({"GET /v1/decisions": problem(422, "status: got 'x', expected a status")}) as admin:
        done = pointsman("tail", "--status", "x", "--admin", admin.url)
        assert done.exit_code == 1 and "status: got 'x'" in done.stderr
    done = pointsman("tail", "--admin", "127.0.0.1:1")
    assert done.exit_code == 2 and "Connection refused" in done.stderr


def test_json_is_the_stream_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without signs of life, and without the heading."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tail.time, "sleep", interrupt)
    with telling_admin({"GET /v1/decisions": Told(lines=(b"", b'{"id" : 1}', b"", b'{"missed":2}'))}) as admin:
        done = pointsman("tail", "--json", "--admin", admin.url)
    assert done.stdout == '{"id" : 1}\n{"missed":2}\n' and done.exit_code == 0
    assert "asking again" in done.stderr
