"""`pointsman edges`: this edge and those that share state with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.commands.inquiry import Inquiry, notes, state_text, table_of
from pointsman.commands.options import EXIT_NO
from pointsman.commands.shown import fitted, span, whole

NAME_WIDTH = 24
URL_WIDTH = 32


def run_edges(inquiry: Inquiry) -> int:
    """Print the edges; 1 when this one does not follow all others, else 0."""
    answer = inquiry.client.get("/v1/edges")
    inquiry.show(answer, edges_shown)
    view = answer.json()
    return 0 if view["in_step"] and view["store"] in ("up", "none") else EXIT_NO


def edges_shown(view: Mapping[str, Any]) -> RenderableType:
    """Render the edge that was asked in a line, the others in a table."""
    if view["store"] == "none":
        return "this edge shares nothing; docs/how-to-share-state.md says how edges do"
    agree = "agrees with all others" if view["in_step"] else "does not follow all others"
    title = Text.assemble((view["name"], "bold"), f"  store {view['store']}  {agree}")
    if not view["edges"]:
        return Group(title, "no other edge shares state with it")
    right = ("heard", "lag", "in flight", "holds")
    rows = [
        (
            fitted(edge["name"], NAME_WIDTH),
            state_text(edge["state"]),
            f"{span(edge['heard_s'])} ago",
            whole(edge["lag"]),
            whole(edge["in_flight"]),
            whole(edge["holds"]),
            fitted(edge["admin_url"], URL_WIDTH),
        )
        for edge in view["edges"]
    ]
    refused = [f"{edge['name']}: {edge['refused']}" for edge in view["edges"] if edge["refused"]]
    return Group(title, table_of(("edge", "state", *right, "admin"), rows, right=right), *notes(refused))
