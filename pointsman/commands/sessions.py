"""`pointsman sessions`: where sessions live; one moved to another replica, or forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import segment
from pointsman.commands.inquiry import Inquiry, facts, table_of
from pointsman.commands.shown import day_and_time, fitted, short, span, whole

KEY_WIDTH = 28
NAME_WIDTH = 16


def run_list(inquiry: Inquiry, *, limit: int, **filters: str) -> int:
    """Print sessions by key. Filters are query parameters; empty ones are left out."""
    answer = inquiry.client.get("/v1/sessions", limit=limit, **filters)
    chosen = any(filters.values())
    inquiry.show(answer, lambda body: session_list(body["sessions"], more=bool(body.get("next")), chosen=chosen))
    return 0


def run_show(inquiry: Inquiry, key: str, tenant: str) -> int:
    """Print one session."""
    answer = inquiry.client.get(_path(key), tenant=tenant)
    inquiry.show(answer, lambda view: session_facts(view, None))
    return 0


def run_move(inquiry: Inquiry, key: str, tenant: str, replica: str) -> int:
    """Have a session's next request go to a replica."""
    answer = inquiry.client.call("PUT", _path(key), query={"tenant": tenant}, body={"replica": replica})
    inquiry.show(answer, lambda view: f"{view['key']}: its next request goes to {view['replica']}")
    return 0


def run_forget(inquiry: Inquiry, key: str, tenant: str) -> int:
    """Have a session forgotten on all edges."""
    answer = inquiry.client.call("DELETE", _path(key), query={"tenant": tenant})
    if not answer.body:
        inquiry.say(f"{key} is forgotten: its next request is placed as that of a new session")
    return 0


def _path(key: str) -> str:
    return f"/v1/sessions/{segment(key)}"


def session_list(sessions: list[dict[str, Any]], *, more: bool = False, chosen: bool = False) -> RenderableType:
    """A row for each session. more: whether the router has further ones; chosen: whether filters left some out."""
    if not sessions:
        return "no session matches" if chosen else "no session is known"
    right = ("tokens", "turns", "in flight", "idle", "gone in")
    table = table_of(("session", "tenant", "replica", "state", *right), map(_row, sessions), right=right)
    return Group(table, *(("there are more: -n, or filters",) if more else ()))


def _row(view: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        fitted(view["key"], KEY_WIDTH),
        fitted(view["tenant"], NAME_WIDTH),
        fitted(view["replica"], NAME_WIDTH),
        _state(view),
        short(view["tokens"]),
        whole(view["turns"]),
        whole(view["in_flight"]),
        span(view["idle_s"]),
        span(view["forgotten_in_s"]),
    )


def _state(view: Mapping[str, Any]) -> str:
    return f"{view['state']}, moving" if view["moving"] else str(view["state"])


def session_facts(view: Mapping[str, Any], zone: tzinfo | None) -> RenderableType:
    """One session."""
    title = Text.assemble((view["key"], "bold"), f"  {_state(view)}  on {view['replica']}")
    waits = view["idle_timeout_left_s"]
    rows = {
        "tenant": view["tenant"],
        "pinned": f"to {view['replica']} by the live policy" if view["pinned"] else "",
        "tokens": f"{whole(view['tokens'])} in {whole(view['turns'])} requests" if view["tokens"] is not None else "",
        "in flight": whole(view["in_flight"]) if view["in_flight"] is not None else "",
        "last active": f"{span(view['idle_s'])} ago, at {day_and_time(view['last_active'], zone)}",
        "counts as live": f"for another {span(waits)}" if waits is not None else "",
        "forgotten": f"in {span(view['forgotten_in_s'])}" if view["forgotten_in_s"] is not None else "",
    }
    return Group(title, facts(rows))
