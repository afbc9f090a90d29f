"""`pointsman decisions`: past decisions in a table, or the whole why of one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import AdminClient, RefusedError, segment
from pointsman.commands.candidate_table import why_shown
from pointsman.commands.inquiry import Inquiry, flowed_text, table_of
from pointsman.commands.shown import ABSENT, clock_time, day_and_time, fitted, ms, short, whole

ID_WIDTH = 8
"""Characters of an id in a table; the command takes so many, or more, in place of a whole id."""

NAME_WIDTH = 12
REASON_WIDTH = 13

SEARCHED = 1000
"""Latest decisions among which the beginning of an id is looked for: the largest page of the API."""

NOT_FOUND = 404


def run_list(inquiry: Inquiry, *, limit: int, **filters: str) -> int:
    """Print the latest decisions that match, the newest first. Filters are query parameters."""
    answer = inquiry.client.get("/v1/decisions", limit=limit, **filters)
    chosen = any(filters.values())
    inquiry.show(answer, lambda body: decision_list(body["decisions"], None, chosen=chosen))
    return 0


def run_show(inquiry: Inquiry, request_id: str) -> int:
    """Print one decision with its candidates and what came of it."""
    try:
        answer = inquiry.client.get(f"/v1/decisions/{segment(request_id)}")
    except RefusedError as refused:
        whole_id = _completed(inquiry.client, request_id) if refused.status == NOT_FOUND else ""
        if not whole_id:
            raise
        answer = inquiry.client.get(f"/v1/decisions/{segment(whole_id)}")
    inquiry.show(answer, lambda view: decision_shown(view, None, width=inquiry.console.width))
    return 0


def _completed(client: AdminClient, beginning: str) -> str:
    """The one id among the latest decisions that begins so; empty where there is none, or more than one."""
    found = client.get("/v1/decisions", limit=SEARCHED).json()["decisions"]
    ids = [view["id"] for view in found if view["id"].startswith(beginning)]
    return ids[0] if len(ids) == 1 else ""


def decision_list(views: list[dict[str, Any]], zone: tzinfo | None, *, chosen: bool = False) -> RenderableType:
    """One line for each decision. `chosen`: whether filters left some out."""
    if not views:
        return "no decision matches" if chosen else "no decision was made yet; send a request to the edge"
    right = ("prompt", "cached", "TTFT")
    columns = ("at", "id", "reason", "replica", "session", *right, "status")
    return table_of(columns, (_row(view, zone) for view in views), right=right)


def _row(view: Mapping[str, Any], zone: tzinfo | None) -> tuple[str, ...]:
    outcome = view.get("outcome") or {}
    status = outcome.get("status") or view.get("status")
    return (
        clock_time(view["at"], zone, to_ms=False),
        view["id"][:ID_WIDTH],
        fitted(view["reason"], REASON_WIDTH),
        fitted(outcome.get("replica") or view.get("first"), NAME_WIDTH),
        fitted(view.get("session"), NAME_WIDTH),
        short(outcome.get("prompt_tokens", view.get("prompt_tokens"))),
        short(outcome.get("actual_cached", view.get("resident_tokens"))),
        ms(outcome.get("ttft_ms")),
        f"{status or ''} {outcome.get('ended') or 'in flight'}".strip(),
    )


def decision_shown(view: Mapping[str, Any], zone: tzinfo | None, *, width: int) -> RenderableType:
    """One decision: what was asked, who was chosen and why, and predicted beside what came."""
    policy = view.get("policy") or {}
    revision = f" r{policy['revision']}" if policy.get("revision") else ""
    chosen = f"-> {view['first']}" if view.get("first") else f"-> refused with {view.get('status', ABSENT)}"
    chosen = f"{chosen}  {view['reason']}"
    head = [
        f"{view['id']}",
        day_and_time(view["at"], zone),
        f"edge {view['edge']}" if view.get("edge") else "",
        f"client's id {view['client_id']}" if view.get("client_id") else "",
    ]
    asked = [
        view.get("path", ""),
        f"model {view['model']}" if view.get("model") else "",
        f"session {view['session']}" if view.get("session") else "",
        f"tenant {view['tenant']}" if view.get("tenant") else "",
        f"{whole(view['prompt_tokens'])} tokens" if view.get("prompt_tokens") is not None else "",
        f"held {ms(view['held_ms'])}" if view.get("held_ms") else "",
        f"policy {policy['name']}{revision}" if policy else "",
        chosen,
        f"prefill by {view['prefill']}" if view.get("prefill") else "",
    ]
    why = why_shown(
        view.get("candidates"),
        view.get("first", ""),
        excluded=view.get("excluded"),
        would_change=view.get("would_change"),
        total=view.get("candidates_total"),
    )
    top = flowed_text(head, width, strong=view["id"])
    return Group(top, flowed_text(asked, width, strong=chosen), "", why, *_came(view))


def _came(view: Mapping[str, Any]) -> list[RenderableType]:
    """Predicted beside what came; a sentence while the request is in flight."""
    outcome = view.get("outcome") or {}
    if not outcome.get("ended"):
        return ["", Text("in flight: nothing came of it yet", style="dim")]
    decoded = outcome.get("decode_ms")
    answered = [
        outcome.get("replica", "nobody"),
        f"{outcome['status']}" if outcome.get("status") else "",
        outcome["ended"],
        f"{whole(outcome['output_tokens'])} tokens out" if outcome.get("output_tokens") is not None else "",
        f"after {outcome['retries']} further tries" if outcome.get("retries") else "",
    ]
    right = ("prompt", "cached", "cached at prefill", "TTFT", "decode", "took")
    rows = [
        (
            "predicted",
            view.get("first") or "nobody",
            whole(view.get("prompt_tokens")),
            whole(outcome.get("predicted_cached", view.get("resident_tokens"))),
            ABSENT,
            ABSENT,
            ABSENT,
            ABSENT,
        ),
        (
            "came",
            ", ".join(filter(None, answered)),
            whole(outcome.get("prompt_tokens")),
            whole(outcome.get("actual_cached")),
            whole(outcome.get("prefill_cached")),
            ms(outcome.get("ttft_ms")),
            ms(decoded),
            ms(outcome.get("duration_ms")),
        ),
    ]
    return ["", table_of(("", "served", *right), rows, right=right, flexible="served")]
