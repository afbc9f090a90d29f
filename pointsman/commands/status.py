"""`pointsman status`: whether an edge is well, in one look, with a line for each thing that is not.

The exit code is 1 exactly when there is such a line. Figures of traffic come from `/v1/live`, where the router has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import AdminClient, MissingOperationError
from pointsman.commands.inquiry import STATE_STYLES, Inquiry, notes
from pointsman.commands.options import EXIT_NO
from pointsman.commands.shown import fitted, flowed, ms, now_utc, rate, share, since, span, state_and_why, whole

STATES = ("up", "starting", "draining", "ejected", "down")
"""States of replicas in the order of their counts."""

UNWELL = ("ejected", "down")
"""States of replicas that nobody asked for."""

APART = ("silent", "refused", "behind")
"""States of other edges that do not agree with this one."""

NAMED_MAX = 10
"""Replicas with a line of their own; more are counted."""

MODEL_WIDTH = 24

TENANT_WIDTH = 24

MODELS_MAX = 3
"""Models whose TTFT is in the line, the busiest ones; `pointsman top` shows all."""


def run_status(inquiry: Inquiry) -> int:
    """Print the state of the edge; 1 when something is not well, else 0."""
    answer = inquiry.client.get("/v1/status")
    status = answer.json()
    live = {} if inquiry.as_json else _live(inquiry.client)
    inquiry.show(answer, lambda body: status_shown(body, live, now_utc(), width=inquiry.console.width))
    return EXIT_NO if list(troubles(status, now_utc())) else 0


def _live(client: AdminClient) -> dict[str, Any]:
    """Figures of the traffic; none from a router without them."""
    try:
        live: dict[str, Any] = client.get("/v1/live").json()
    except MissingOperationError:
        return {}
    return live


def status_shown(status: Mapping[str, Any], live: Mapping[str, Any], now: datetime, *, width: int) -> RenderableType:
    """The line of the edge, and a line for each trouble with the command that shows more."""
    state = status["state"]
    head = [
        status["name"] or "edge",
        state,
        _policy(status, live, now),
        _replicas(status["replicas"]),
        *_traffic(live),
        _held(status),
        _edges(status["edges"]),
        f"up {span(status['uptime_s'])}",
    ]
    text = Text("\n".join(flowed(head, width)))
    text.stylize("bold", 0, len(head[0]))
    text.highlight_words([state], STATE_STYLES.get(state, "bold red"))
    lines = (_trouble(line, command, width - 2) for line, command in troubles(status, now))
    return Group(text, *notes(lines))


def _trouble(line: str, command: str, width: int) -> Text:
    """One trouble, and the command that shows more at the right, or below where there is no room."""
    text = Text(line)
    for state in (*UNWELL, *APART):
        if (at := line.find(f" {state}")) >= 0:
            text.stylize(STATE_STYLES[state], at + 1, at + 1 + len(state))
            break
    if command:
        gap = width - len(line) - len(command)
        text.append(" " * gap if gap >= 3 else "\n")
        text.append(command, style="cyan")
    return text


def _policy(status: Mapping[str, Any], live: Mapping[str, Any], now: datetime) -> str:
    policy = live.get("policy") or {}
    if "revision" not in policy:
        return f"policy {status['policy']['name']}"
    by = f", by {policy['author']}" if policy.get("author") else ""
    return f"policy {policy['name']} r{policy['revision']} ({since(policy.get('since'), now)} ago{by})"


def _held(status: Mapping[str, Any]) -> str:
    """Requests that wait: how many, of which classes, of whom the most, and the longest wait."""
    if not status.get("held"):
        return ""
    queue = status.get("queue")
    if queue is None:  # a router that does not say, or all of them went meanwhile
        return f"{whole(status['held'])} held"
    said = [f"{whole(requests)} {of}" for of, requests in queue["by_priority"].items()]
    most = max(queue["shares"], key=lambda one: one["requests"], default=None)
    if most is not None and most["tenant"] and len(queue["shares"]) > 1:
        said.append(f"{whole(most['requests'])} of {fitted(most['tenant'], TENANT_WIDTH)}")
    return f"{whole(status['held'])} held: {', '.join(said)}, longest {span(queue['longest_s'])}"


def _replicas(replicas: Mapping[str, Any]) -> str:
    counts = replicas["by_state"]
    named = [f"{whole(counts[state])} {state}" for state in STATES if counts.get(state)]
    return f"replicas {', '.join(named)}" if named else "no replicas"


def _traffic(live: Mapping[str, Any]) -> Iterator[str]:
    if live.get("requests_per_s") is not None:
        yield f"req/s {rate(live['requests_per_s'])}"
    by_model = live.get("ttft_ms") or {}
    busiest = sorted(by_model, key=lambda model: by_model[model]["count"], reverse=True)[:MODELS_MAX]
    for model in busiest:
        named = f" of {fitted(model, MODEL_WIDTH)}" if len(by_model) > 1 else ""
        yield f"ttft{named} p50 {ms(by_model[model]['p50'])} p99 {ms(by_model[model]['p99'])}"
    yield hit_shown(live)
    if live.get("fail_open_per_s"):
        yield f"fail-open {rate(live['fail_open_per_s'])}/s"


def hit_shown(live: Mapping[str, Any]) -> str:
    """Hit rate beside what could be had, and the regret; empty without first tokens."""
    hit, regret = live.get("hit") or {}, live.get("regret") or {}
    if not hit:
        return ""
    best = f" of {share(hit['share_best'])}" if hit.get("share_best") is not None else ""
    return f"hit {share(hit['share'])}{best}" + (f"   regret {ms(regret['ms'])}" if regret else "")


def _edges(edges: list[dict[str, Any]]) -> str:
    if not edges:
        return ""
    agreeing = 1 + sum(edge["state"] == "in-step" for edge in edges)
    return f"{agreeing} edges agree" if agreeing == 1 + len(edges) else f"{agreeing} of {1 + len(edges)} edges agree"


def troubles(status: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, str]]:
    """A line for each thing that is not well, with the command that shows more (empty for none)."""
    for why in status["not_ready"]:
        yield f"not ready: {why}", ""
    for why in status["degraded"]:
        yield f"degraded: {why}", ""
    out = [replica for replica in status["replicas"]["out"] if replica["state"] in UNWELL]
    for replica in out[:NAMED_MAX]:
        name, state, long = replica["replica"], replica["state"], since(replica["since"], now)
        rest = state_and_why(state, replica["why"])[len(state) :]
        how_long = f"for {long}" if rest.startswith(":") else f"{long} ago"
        yield f"{name} {state} {how_long}{rest}", f"pointsman replicas {name}"
    counted = sum(status["replicas"]["by_state"].get(state, 0) for state in UNWELL)
    if counted > len(out[:NAMED_MAX]):
        yield f"{whole(counted - len(out[:NAMED_MAX]))} more replicas are down or ejected", "pointsman replicas"
    for edge in status["edges"]:
        if edge["state"] in APART:
            yield f"edge {edge['name']} is {edge['state']}", "pointsman edges"
