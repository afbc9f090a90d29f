"""`pointsman tail`: decisions as they end, one line each.

A router that ends the stream, because it restarts, is asked again until it answers; what ended meanwhile is not shown.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import tzinfo
from typing import Any

from pointsman.admin_client import AdminClient, UnaskableError
from pointsman.commands.inquiry import Inquiry, print_raw
from pointsman.commands.shown import ABSENT, clock_time, fitted, ms, short
from pointsman.contract.backoff import Backoff

MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 5.0

WIDTHS = {"at": 10, "reason": 13, "replica": 12, "session": 10, "prompt": 6, "cached": 6, "TTFT": 8, "took": 8}
"""Columns of a line; status and end follow, and nothing aligns behind them."""

RIGHT = ("prompt", "cached", "TTFT", "took")


def run_tail(inquiry: Inquiry, *, last: int, **filters: str) -> int:
    """Print decisions as they end until Ctrl-C. `last`: so many that ended before come first; 0 for none."""
    zone: tzinfo | None = None
    if not inquiry.as_json:
        print(heading(), flush=True)

    def show(document: bytes) -> None:
        if inquiry.as_json:
            print_raw(document)
        else:
            print(tail_line(json.loads(document), zone), flush=True)

    return follow(inquiry.client, "/v1/decisions", show, last=last, **filters)


def follow(client: AdminClient, path: str, show: Callable[[bytes], None], *, last: int = 0, **query: str) -> int:
    """Show what a stream brings until Ctrl-C, and ask again when the stream ends. Raises as `AdminClient.follow`.

    last: items of the past that come first. show: takes one JSON document.
    """
    try:
        for document in _without_end(client, path, last, query):
            show(document)
    except KeyboardInterrupt:
        return 0
    return 0


def _without_end(client: AdminClient, path: str, last: int, query: Mapping[str, str]) -> Iterator[bytes]:
    backoff = Backoff(MIN_PAUSE_S, MAX_PAUSE_S)
    reached = False
    while True:
        try:
            for document in client.follow(path, limit=last or None, **query):
                reached, last = True, 0
                backoff.reset()
                if document:
                    yield document
            why = "the router ended the stream"
        except UnaskableError as error:
            if not reached:
                raise
            why = str(error)
        print(f"pointsman: {why}; asking again in {backoff.next_s:g} s", file=sys.stderr, flush=True)
        time.sleep(backoff.take())


def heading() -> str:
    """Names of the columns."""
    return _aligned({name: name for name in WIDTHS}, "status")


def tail_line(view: Mapping[str, Any], zone: tzinfo | None) -> str:
    """One decision that ended; or how many were left out, since this terminal was too slow."""
    if "missed" in view:
        return f"({view['missed']} decisions were left out: this reader is too slow)"
    outcome = view.get("outcome") or {}
    cells = {
        "at": clock_time(view["at"], zone)[: WIDTHS["at"]],
        "reason": view["reason"],
        "replica": outcome.get("replica") or view.get("first", ""),
        "session": view.get("session", ""),
        "prompt": short(outcome.get("prompt_tokens", view.get("prompt_tokens"))),
        "cached": short(outcome.get("actual_cached", view.get("resident_tokens"))),
        "TTFT": ms(outcome.get("ttft_ms")),
        "took": ms(outcome.get("duration_ms")),
    }
    ended = outcome.get("ended", "")
    status = str(outcome.get("status") or view.get("status") or ABSENT)
    return _aligned(cells, status if ended in ("", "stop", "complete", "length") else f"{status} {ended}")


def _aligned(cells: Mapping[str, str], rest: str) -> str:
    parts = [
        fitted(text, WIDTHS[name]).rjust(WIDTHS[name])
        if name in RIGHT
        else fitted(text, WIDTHS[name]).ljust(WIDTHS[name])
        for name, text in cells.items()
    ]
    return "  ".join([*parts, rest])
