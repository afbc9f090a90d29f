"""`pointsman events`: what changed at this edge, when, and by whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from rich.console import RenderableType

from pointsman.commands.inquiry import Inquiry, print_raw, table_of
from pointsman.commands.shown import ABSENT, clock_time, day_and_time, fitted
from pointsman.commands.tail import follow

AUTHOR_WIDTH = 16


def run_list(inquiry: Inquiry, *, limit: int, kind: str) -> int:
    """Print the latest events, the newest last."""
    answer = inquiry.client.get("/v1/events", limit=limit, kind=kind)
    inquiry.show(answer, lambda body: event_list(body["events"], None))
    return 0


def run_follow(inquiry: Inquiry, *, last: int, kind: str) -> int:
    """Print events as they happen until Ctrl-C, after the last ones."""

    def show(document: bytes) -> None:
        if inquiry.as_json:
            print_raw(document)
        else:
            print(event_line(json.loads(document), None), flush=True)

    return follow(inquiry.client, "/v1/events", show, last=last, kind=kind)


def event_list(events: list[dict[str, Any]], zone: tzinfo | None) -> RenderableType:
    """One row for each event."""
    if not events:
        return "no event: nothing changed since the router started"
    rows = [
        (day_and_time(event["at"], zone)[:19], event["kind"], fitted(event.get("author"), AUTHOR_WIDTH), event["text"])
        for event in events
    ]
    return table_of(("at", "kind", "by", "event"), rows, flexible="event")


def event_line(event: Mapping[str, Any], zone: tzinfo | None) -> str:
    """One event; or how many were left out, since this terminal was too slow."""
    if "missed" in event:
        return f"({event['missed']} events were left out: this reader is too slow)"
    author = event.get("author", "")
    by = "" if author in ("", ABSENT) else f"  by {author}"
    return f"{clock_time(event['at'], zone, to_ms=False)}  {event['kind']:<8}  {event['text']}{by}"
