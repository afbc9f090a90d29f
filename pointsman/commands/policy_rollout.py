"""`pointsman policy rollout`: a policy that decides a share of new sessions, and more as long as it is no worse."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.commands.inquiry import Inquiry, notes, table_of
from pointsman.commands.options import EXIT_NO
from pointsman.commands.policy import document_of
from pointsman.commands.shown import ABSENT, ms, now_utc, share, since, span, whole
from pointsman.errors import StartError

PATH = "/v1/policy/rollout"

RETURNED = "returned"
"""State of a rollout whose policy was worse than its bounds allow."""


def run_show(inquiry: Inquiry) -> int:
    """Print the latest rollout; 1 when its policy was worse, and the live one decides for all again."""
    answer = inquiry.client.get(PATH)
    inquiry.show(answer, lambda view: rollout_shown(view, now_utc()))
    return EXIT_NO if answer.json()["state"] == RETURNED else 0


def run_start(
    inquiry: Inquiry, given: str, *, steps: str, bounds: Mapping[str, float | None], if_match: str, **about: Any
) -> int:
    """Begin to roll a document out.

    bounds, about: fields of the request; those that are None are left to the router.
    """
    body: dict[str, Any] = {"document": document_of(given)} | _given(about)
    if steps:
        body["steps"] = shares(steps)
    if _given(bounds):
        body["bounds"] = _given(bounds)
    answer = inquiry.client.call("POST", PATH, body=body, if_match=if_match)
    inquiry.show(answer, lambda view: rollout_shown(view, now_utc()))
    return 0


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def run_stop(inquiry: Inquiry) -> int:
    """End the rollout; all sessions are the live policy's again."""
    inquiry.client.call("DELETE", PATH)
    inquiry.say("the rollout is ended: the live policy decides for all")
    return 0


def shares(text: str) -> list[float]:
    """Shares of new sessions: `10%,50%` or `0.1,0.5`. Raises StartError."""
    try:
        return [float(part.strip().rstrip("% ")) / (100 if "%" in part else 1) for part in text.split(",")]
    except ValueError:
        raise StartError(f"--steps: {text}: shares such as 10%,50%,100% are expected") from None


def rollout_shown(view: Mapping[str, Any], now: datetime) -> RenderableType:
    """Progress of the rollout, and its policy beside the live one."""
    policy, state = view["document"].get("policy", ""), view["state"]
    by = f", by {view['author']}" if view["author"] else ""
    why = f": {view['why']}" if view["why"] else ""
    title = Text.assemble((policy, "bold"), f"  {state}, begun {since(view['started_at'], now)} ago{by}{why}")
    steps = ", ".join(share(step) for step in view["steps"])
    lines = [f"step {view['step']} of {len(view['steps'])} ({steps}): {share(view['share'])} of new sessions"]
    if state == "running":
        lines[0] += f" for {span(view['step_age_s'])} of {span(view['step_s'])} at least"
    if view.get("waits_for"):
        lines.append(f"waits for {view['waits_for']}")
    troubles = [f"ended: {view['ended']}"] if view.get("ended") else []
    ratio = view["ttft_ratio"]
    compared = f"typical TTFT is {ratio:.2f} x that of the live policy" if ratio is not None else ""
    rest = f"{whole(view['not_compared'])} requests of sessions that began before are not compared"
    return Group(
        title,
        *lines,
        *notes(troubles),
        "",
        _arms(view),
        *(line for line in (compared, rest if view["not_compared"] else "") if line),
        *notes(view.get("warnings") or (), mark="note:"),
    )


def _arms(view: Mapping[str, Any]) -> RenderableType:
    right = ("requests", "errors", "refused", "TTFT p50", "p95")
    rows = []
    for name, arm in (("live", view["live"]), ("rolled out", view["candidate"])):
        ttft = arm["ttft_ms"] or {}
        rows.append(
            (
                name,
                whole(arm["requests"]),
                f"{whole(arm['errors'])} ({share(arm['error_share'])})" if arm["requests"] else ABSENT,
                whole(arm["refused"]),
                ms(ttft.get("p50")),
                ms(ttft.get("p95")),
            )
        )
    return table_of(("policy", *right), rows, right=right)
