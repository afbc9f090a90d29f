"""`pointsman replicas`, `drain`, `undrain`, `reset`: who is there, what they do, and why one is out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import segment
from pointsman.commands.inquiry import Inquiry, facts, notes, state_text, table_of
from pointsman.commands.shown import day_and_time, fitted, ms, now_utc, share, short, since, span, state_and_why, whole

NAME_WIDTH = 16
"""Columns of a name in a table; `--json` has it whole."""

ANY_ROLE = "both"
"""Role of a replica that is left out where it says nothing."""

WORKING = "up"
"""State of a replica that gets requests."""


def run_list(inquiry: Inquiry, **filters: str) -> int:
    """Print all replicas that match. Filters are query parameters; empty ones are left out."""
    answer = inquiry.client.get("/v1/replicas", **filters)
    chosen = any(filters.values())
    inquiry.show(answer, lambda body: replica_list(body["replicas"], now_utc(), chosen=chosen))
    return 0


def run_show(inquiry: Inquiry, replica: str) -> int:
    """Print all that is known of one replica."""
    answer = inquiry.client.get(f"/v1/replicas/{segment(replica)}")
    inquiry.show(answer, lambda view: replica_facts(view, now_utc(), None))
    return 0


def run_change(inquiry: Inquiry, replica: str, change: str) -> int:
    """Drain, undrain or reset a replica, and print the state that follows.

    change: the last segment of the operation's path.
    """
    answer = inquiry.client.call("POST", f"/v1/replicas/{segment(replica)}/{change}")
    inquiry.show(answer, changed)
    return 0


def changed(view: Mapping[str, Any]) -> RenderableType:
    """One replica after a change, in one line."""
    line = Text.assemble(view["id"], "  ", state_text(view["state"]))
    in_flight = view["in_flight"]
    if view["state"] == "draining":
        line.append(f"  {whole(in_flight)} requests in flight finish; `pointsman undrain {view['id']}` ends the drain")
    elif view.get("why"):
        line.append(f"  {view['why']}")
    return line


def replica_list(views: list[dict[str, Any]], now: datetime, *, chosen: bool = False) -> RenderableType:
    """All replicas, and below them why some of them get no requests.

    chosen: whether filters left replicas out.
    """
    if not views:
        return "no replica matches" if chosen else "no replica is registered; docs/how-to-add-endpoints.md says how"
    numbers = ("in flight", "backlog", "KV", "hit", "sessions")
    columns = ("replica", "state", "since", *numbers, "role", "pool", "model")
    table = table_of(columns, (_row(view, now) for view in views), right=("since", *numbers))
    return Group(table, *notes(filter(None, map(trouble, views))))


def _row(view: Mapping[str, Any], now: datetime) -> tuple[str | Text, ...]:
    kv = view.get("kv") or {}
    return (
        fitted(view["id"], NAME_WIDTH),
        state_text(view["state"]),
        since(view.get("since"), now),
        whole(view["in_flight"]),
        ms(kv.get("backlog_ms")),
        share(kv.get("usage")),
        share(view.get("hit_rate")),
        whole(view.get("sessions")),
        "" if view["role"] == ANY_ROLE else view["role"],
        fitted(view["pool"], NAME_WIDTH),
        fitted(view["model"], NAME_WIDTH),
    )


def trouble(view: Mapping[str, Any]) -> Text | None:
    """Why a replica gets no or fewer requests, in a sentence; None for one that is well."""
    name, state, demotion = view["id"], view["state"], view.get("demotion")
    if state == WORKING:
        return Text(f"{name} gets {_demotion(demotion)}") if demotion else None
    return Text.assemble(f"{name} ", state_text(state), state_and_why(state, _why(view))[len(state) :])


def _why(view: Mapping[str, Any]) -> str:
    """Why a replica gets no requests, with the command in place of the call that ends a drain."""
    why: str = view.get("why") or view.get("cause") or ""
    name = view["id"]
    ends = f"`pointsman undrain {name}` ends that"
    return why.removeprefix("Drained: ").replace(f"DELETE /v1/replicas/{name}/drain ends that", ends)


def replica_facts(view: Mapping[str, Any], now: datetime, zone: tzinfo | None) -> RenderableType:
    """One replica, with a line for each thing that is known. zone: of moments; None for that of this machine."""
    kv, engine = view.get("kv") or {}, view.get("engine") or {}
    title = Text.assemble((view["id"], "bold"), "  ", state_text(view["state"]))
    if view.get("since"):
        title.append(f" for {since(view['since'], now)}, since {day_and_time(view['since'], zone)}")
    names = [name for name in view["names"] if name != view["model"]]
    loaded = set(view["adapters_loaded"])
    adapters = ", ".join(f"{name} (loaded)" if name in loaded else name for name in view["adapters"])
    lease = view["lease_left_s"]
    rows = {
        "why": _why(view),
        "gets": _demotion(view.get("demotion")),
        "url": view["url"],
        "model": view["model"] + (f", also as {', '.join(names)}" if names else ""),
        "adapters": adapters,
        "role": view["role"] + (f", pool {view['pool']}" if view["pool"] else ""),
        "last check": _last_check(view.get("last_check"), now),
        "load": f"{whole(view['in_flight'])} requests in flight, {short(view['in_flight_tokens'])} tokens",
        "engine": _engine(engine),
        "backlog": f"{short(kv['backlog_tokens'])} prompt tokens, {ms(kv['backlog_ms'])}" if kv else "",
        "KV": _kv(kv),
        "hit rate": _hit_rate(view),
        "holds": _holds(view),
        "lease": f"ends in {span(lease)} unless it is renewed" if lease is not None else "permanent",
    }
    return Group(title, facts(rows))


def _demotion(demotion: Mapping[str, Any] | None) -> str:
    if not demotion:
        return ""
    times = f", {demotion['ratio']:.1f} x the median time" if demotion["ratio"] != 1 else ""
    return f"{share(demotion['share'])} of its usual requests: {demotion['cause']}{times}"


def _last_check(check: Mapping[str, Any] | None, now: datetime) -> str:
    if not check:
        return ""
    took = f", took {ms(check['duration_ms'])}" if check["duration_ms"] is not None else ""
    return f"{check['status']} {check['detail']}, {since(check['at'], now)} ago{took}"


def _engine(engine: Mapping[str, Any]) -> str:
    if not engine:
        return ""
    return f"{engine['running']} running, {engine['waiting']} waiting, {share(engine['kv_usage'])} of the KV in use"


def _kv(kv: Mapping[str, Any]) -> str:
    if not kv:
        return ""
    live = f"{short(kv['footprint_tokens'])} tokens of live conversations"
    if kv["capacity_tokens"] is None:
        return live
    return f"{live} of {short(kv['capacity_tokens'])} that fit, {share(kv['usage'])}"


def _hit_rate(view: Mapping[str, Any]) -> str:
    if view.get("hit_rate") is None:
        return ""
    return f"{share(view['hit_rate'])} of prompt tokens, predicted {share(view['hit_rate_predicted'])}"


def _holds(view: Mapping[str, Any]) -> str:
    if view.get("keys") is None:
        return ""
    sessions = view.get("sessions")
    return f"{whole(view['keys'])} prefix keys" + (f", {whole(sessions)} sessions" if sessions is not None else "")
