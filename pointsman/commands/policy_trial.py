"""`pointsman policy dry-run`: what a policy would have decided, compared with what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from pointsman.admin_client import TRIAL_TIMEOUT_S
from pointsman.commands.inquiry import Inquiry, facts, notes, table_of
from pointsman.commands.policy import document_of
from pointsman.commands.shown import fitted, ms, share, short, whole

NAME_WIDTH = 24
MOVES_SHOWN = 8
REASONS_SHOWN = 8


def run_dry_run(inquiry: Inquiry, given: str, *, last: int, model: str, tenant: str) -> int:
    """Print what a document would have decided on the latest decisions."""
    about = {name: value for name, value in (("model", model), ("tenant", tenant)) if value}
    body = {"document": document_of(given), "last": last} | about
    answer = inquiry.client.call("POST", "/v1/policy/dry-run", body=body, timeout_s=TRIAL_TIMEOUT_S)
    inquiry.show(answer, dry_run_shown)
    return 0


def dry_run_shown(view: Mapping[str, Any]) -> RenderableType:
    """The comparison, where requests move to, and what the numbers do not say."""
    policy = view["document"].get("policy", "")
    measured = view.get("measured_ttft_ms")
    head = f"{policy} on the latest {whole(view['looked_at'])} decisions:"
    error = [f"the policy failed: {view['error']}"] if view.get("error") else []
    unjudged = [f"{whole(count)} not judged: {cause}" for cause, count in view["unjudged"].items()]
    parts: list[RenderableType] = [head, *comparison_shown(view["result"])]
    if measured is not None:
        parts.append(f"measured TTFT of these requests: {ms(measured)} on average")
    return Group(*parts, *notes([*error, *unjudged]), *notes(view["notes"], mark="note:"))


def comparison_shown(result: Mapping[str, Any]) -> list[RenderableType]:
    """Two policies on the same requests: in all, by reason, and the largest moves."""
    parts: list[RenderableType] = [facts(_numbers(result))]
    reasons = sorted(result.get("by_reason", {}).items(), key=lambda entry: -entry[1]["judged"])[:REASONS_SHOWN]
    if len(reasons) > 1:
        parts += ["", _by_reason(reasons)]
    moves = result.get("moves", [])[:MOVES_SHOWN]
    if moves:
        rows = [
            (fitted(move["from"], NAME_WIDTH), fitted(move["to"], NAME_WIDTH), whole(move["requests"]))
            for move in moves
        ]
        left_out = result["moved"] - sum(move["requests"] for move in moves)
        parts += ["", table_of(("from", "to", "requests"), rows, right=("requests",))]
        parts += [f"and {whole(left_out)} more requests move"] if left_out > 0 else []
    return parts


def _numbers(result: Mapping[str, Any]) -> dict[str, str]:
    saved, cached, ttft = result["regret_ms"], result["cached_tokens"], result["ttft_ms"]
    tied = f", {whole(result['tied'])} of them between equals" if result["tied"] else ""
    faster = "less" if saved["per_request"] >= 0 else "more"
    more = "more" if cached["per_request"] >= 0 else "fewer"
    return {
        "judged": f"{whole(result['judged'])} requests",
        "move": f"{share(result['moved_share'])}, {whole(result['moved'])} requests{tied}",
        "predicted TTFT": f"{ms(ttft['candidate'])} instead of {ms(ttft['made'])}: "
        f"{ms(abs(saved['per_request']))} {faster} a request",
        "cached tokens": f"{short(abs(cached['per_request']))} {more} a request, {short(abs(cached['sum']))} in all",
    }


def _by_reason(reasons: list[tuple[str, dict[str, Any]]]) -> RenderableType:
    right = ("judged", "move", "TTFT then", "TTFT instead")
    rows = [
        (
            reason,
            whole(result["judged"]),
            share(result["moved_share"]),
            ms(result["ttft_ms"]["made"]),
            ms(result["ttft_ms"]["candidate"]),
        )
        for reason, result in reasons
    ]
    return table_of(("reason", *right), rows, right=right)
