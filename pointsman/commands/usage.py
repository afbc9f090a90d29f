"""`pointsman usage`: what tenants used, added up, or every row for a bill."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from pointsman.commands.inquiry import Inquiry, table_of
from pointsman.commands.shown import fitted, share, whole
from pointsman.errors import StartError

NAME_WIDTH = 24

EXPORT = "export"


def run_usage(inquiry: Inquiry, what: str, *, by: str, **time: str) -> int:
    """Print usage. what: `export`, or empty for a table. time: the query parameters `from` and `to`."""
    if what == EXPORT:
        return run_export(inquiry, **time)
    if what:
        raise StartError(f"usage: {what}: `{EXPORT}` or nothing is expected")
    answer = inquiry.client.get("/v1/usage", by=by, **time)
    inquiry.show(answer, usage_table)
    return 0


def run_export(inquiry: Inquiry, **time: str) -> int:
    """Print all rows, one JSON document a line."""
    for line in inquiry.client.lines("/v1/usage/export", **time):
        if line:
            sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
    return 0


def usage_table(report: Mapping[str, Any]) -> RenderableType:
    """A row for each group, and what there is to know about all of them."""
    title = f"from {report['from']} to {report['to']}"
    parts = [] if report["complete"] else ["usage of other edges is missing: Redis cannot be read"]
    if not report["usage"]:
        return Group(title, "no usage", *parts)
    right = ("requests", "prompt", "cached", "output", "seconds", "estimated")
    rows = [
        (*(_name(line[name]) for name in report["by"]), *_figures(line))
        for line in report["usage"]
    ]  # fmt: skip
    return Group(title, table_of((*report["by"], *right), rows, right=right), *parts)


def _name(text: str) -> str:
    return fitted(text, NAME_WIDTH)


def _figures(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Numbers of one row; the last is the share of its tokens that is an estimate."""
    tokens = line["prompt_tokens"] + line["output_tokens"]
    estimated = line["estimated"]["prompt_tokens"] + line["estimated"]["output_tokens"]
    names = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "seconds")
    return (*(whole(line[name]) for name in names), share(estimated / tokens) if estimated else "")
