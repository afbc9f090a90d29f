"""`pointsman policy shadow`: a second policy that decides beside the live one, to no effect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.commands.inquiry import Inquiry, notes
from pointsman.commands.options import EXIT_NO
from pointsman.commands.policy import document_of
from pointsman.commands.policy_trial import comparison_shown
from pointsman.commands.shown import now_utc, share, since

PATH = "/v1/policy/shadow"
FAILED = "failed"


def run_show(inquiry: Inquiry) -> int:
    """Print how the shadow compares with the live policy; 1 when it has failed."""
    answer = inquiry.client.get(PATH)
    inquiry.show(answer, lambda view: shadow_shown(view, now_utc()))
    return EXIT_NO if answer.json()["state"] == FAILED else 0


def run_put(inquiry: Inquiry, given: str, *, sample: float, why: str) -> int:
    """Have a document decide beside the live policy from now on."""
    body = {"document": document_of(given), "sample": sample, "why": why}
    answer = inquiry.client.call("PUT", PATH, body=body)
    inquiry.show(answer, lambda view: shadow_shown(view, now_utc()))
    return 0


def run_off(inquiry: Inquiry) -> int:
    """Take the shadow away."""
    inquiry.client.call("DELETE", PATH)
    inquiry.say("the shadow is taken away")
    return 0


def shadow_shown(view: Mapping[str, Any], now: datetime) -> RenderableType:
    """The shadow, and the comparison since the live policy is what it is."""
    policy = view["document"].get("policy", "")
    by = f", by {view['author']}" if view["author"] else ""
    why = f": {view['why']}" if view["why"] else ""
    title = Text.assemble(
        (policy, "bold"),
        f"  {view['state']} beside the live policy for {since(view['started_at'], now)}{by}{why}",
    )
    sample = f"it decides {share(view['sample'])} of the requests" if view["sample"] < 1 else ""
    cost = view["decision_us"]
    costs = f"a decision of it takes {cost['mean']:,.0f} us, at most {cost['longest']:,.0f} us"
    failures = [f"{view['errors']} errors: {view['error']}"] if view.get("error") else []
    lines = [line for line in (sample, costs) if line]
    return Group(
        title,
        *lines,
        f"compared for {since(view['since'], now)}:",
        *comparison_shown(view["result"]),
        *notes(failures),
        *notes(view.get("warnings") or (), mark="note:"),
    )
