"""`pointsman top`: one picture of an edge, and pictures until `q`."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC
from pathlib import Path
from typing import Any, cast

import pytest
from drawn import WIDTH, assert_fits, drawn, pointsman
from golden import assert_golden
from rich.console import Console
from rich.live import Live
from shown_things import LIVE, NOW
from telling_admin import Told, problem, telling_admin

from pointsman.admin_client import AdminClient, RefusedError
from pointsman.admin_place import Place
from pointsman.commands.keys import Keys
from pointsman.commands.top import LiveFeed, _show, bar, top_shown

GOLDEN = Path(__file__).parent / "golden"


def test_a_picture_has_traffic_reasons_and_replicas() -> None:
    """In 100 columns."""
    text = drawn(top_shown(LIVE, NOW, UTC, width=WIDTH, rows=None))
    assert_golden(GOLDEN / "top.txt", text)
    assert_fits(text)


def test_an_edge_without_traffic_says_so() -> None:
    """Nothing is invented where nothing is known."""
    empty = LIVE | {
        "by_reason": {},
        "ttft_ms": {},
        "replicas": [],
        "edges": [],
        "policy": LIVE["policy"] | {"author": ""},
    }
    for name in ("hit", "regret", "requests_per_s", "fail_open_per_s"):
        empty.pop(name)
    text = drawn(top_shown(empty, NOW, UTC, width=WIDTH, rows=None))
    assert "no first token in the last minute" in text and "no request in the last seconds" in text
    assert "no replica is registered" in text and "req/s -" in text and "hit" not in text


def test_what_is_wrong_stands_on_top() -> None:
    """Before any number."""
    text = drawn(top_shown(LIVE | {"not_ready": ["no replica can serve"]}, NOW, UTC, width=WIDTH, rows=None))
    assert "not ready" in text.splitlines()[0] and "! not ready: no replica can serve\n" in text


def test_of_a_large_fleet_those_that_are_out_and_the_busiest_are_shown() -> None:
    """By id, so that rows keep their place."""
    replicas = [
        {"id": f"r{at:03}", "state": "down" if at == 400 else "up", "in_flight": at % 50, "backlog_ms": 0.0}
        for at in range(500)
    ]
    text = drawn(top_shown(LIVE | {"replicas": replicas}, NOW, UTC, width=WIDTH, rows=12))
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("r") and line[1:4].isdigit()]
    assert len(shown) == 11 and "r400" in shown and shown == sorted(shown)
    assert "and 489 more, up and less busy" in text
    all_down = [replica | {"state": "down"} for replica in replicas]
    text = drawn(top_shown(LIVE | {"replicas": all_down}, NOW, UTC, width=WIDTH, rows=12))
    assert "and 489 more, 489 of them out" in text


def test_many_reasons_and_models_are_counted_together() -> None:
    """The busiest first."""
    reasons = {f"reason-{at}": float(20 - at) for at in range(12)}
    text = drawn(top_shown(LIVE | {"by_reason": reasons}, NOW, UTC, width=WIDTH, rows=None))
    assert "reason-7" in text and "reason-8" not in text and "4 more" in text


@pytest.mark.parametrize(("part", "length"), [(0, 0), (0.001, 1), (0.5, 12), (1, 24)])
def test_a_bar_shows_what_is_not_nothing(part: float, length: int) -> None:
    """However little."""
    assert len(bar(part)) == length


def test_without_a_terminal_there_is_one_picture() -> None:
    """As with `--once`; `--json` is the answer itself."""
    with telling_admin({"GET /v1/live": LIVE}) as admin:
        done = pointsman("top", "--admin", admin.url)
        assert done.exit_code == 0 and "kv-home" in done.stdout and admin.asked[0].query == {}
        assert json.loads(pointsman("top", "--once", "--json", "--admin", admin.url).stdout) == LIVE


class TypedKeys:
    """A terminal on which `q` is pressed once something is true."""

    def __init__(self, when: Any) -> None:
        self._when = when

    def pressed(self, key: str, *, within_s: float = 0.0) -> bool:
        time.sleep(0.005)
        return key == "q" and bool(self._when())


def show(admin_url: str, when: Any) -> str:
    """What `top` draws until something is true of it."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, height=40, force_terminal=True)
    with (
        LiveFeed(AdminClient(Place(admin_url))) as feed,
        Live(console=console, screen=True, auto_refresh=False) as screen,
    ):
        _show(feed, console, cast(Keys, TypedKeys(lambda: when(out.getvalue()))), screen)
    return out.getvalue()


def test_pictures_follow_until_q_and_go_on_after_the_router_was_away() -> None:
    """The last picture stays, with a note that it is old."""
    first, second = (json.dumps(LIVE | {"in_flight": number}).encode() for number in (111, 222))
    with telling_admin({"GET /v1/live": [Told(lines=(first,)), Told(b"away", 502), Told(lines=(second,))]}) as admin:
        text = show(admin.url, lambda drawn: "in flight 222" in drawn)
    assert "in flight 111" in text and "q quits" in text
    assert "the router ended the stream; this is old" in text


def test_a_router_without_figures_ends_it_at_once() -> None:
    """Before the first picture there is nothing to keep."""
    full = problem(503, "at most 64 streams may be open")
    with telling_admin({"GET /v1/live": full}) as admin, pytest.raises(RefusedError, match="at most 64 streams"):
        show(admin.url, lambda _: False)
