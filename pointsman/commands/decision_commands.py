"""Commands about decisions: past ones, those that would be made, and those that are. Done by the modules beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import Options, asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

deciding = typer.Typer()

PANEL = "See decisions"
"""Heading of these commands in `pointsman --help`."""

MAX_LIST = 1000
"""Largest page of the admin API."""

FILTERS: Options = {
    "session": (Annotated[str, typer.Option(help="Session, as the client named it or as its hash.")], ""),
    "model": (Annotated[str, typer.Option(help="Model that the request asked for.")], ""),
    "tenant": (Annotated[str, typer.Option(help="Tenant (API key), or its hash.")], ""),
    "replica": (Annotated[str, typer.Option("--replica", help="Replica that served.")], ""),
    "reason": (
        Annotated[str, typer.Option(help="Reason of the decision, e.g. kv-moved; docs/metrics.md lists them.")],
        "",
    ),
    "status": (
        Annotated[str, typer.Option(help="Status that the client received, or a class such as 5xx.")],
        "",
    ),
    "policy": (Annotated[str, typer.Option(help="Policy that decided.")], ""),
}
"""Options that choose among decisions: the query parameters of `GET /v1/decisions`."""


@asks(deciding, panel=PANEL, example="pointsman explain -f body.json; pointsman explain --request 6f1c8a04-5d3e")
def explain(
    inquiry: Inquiry,
    body: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="BODY", help="File with a request's body; - for standard input."),
    ] = None,
    request: Annotated[
        str, typer.Option(metavar="ID", help="Id of a past request (x-request-id), to see then and now.")
    ] = "",
    session: Annotated[str, typer.Option(help="Session of the request.")] = "",
    model: Annotated[str, typer.Option(help="Model of the request.")] = "",
    path: Annotated[str, typer.Option(help="Path of the request; by the body's keys if absent.")] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="Header of the request, NAME: VALUE; may be repeated.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Take the file's bytes as sent, not as OpenAI's client would send its JSON.")
    ] = False,
) -> int:
    """Explain where a request would go: candidates, terms of their scores, and what would change it."""
    from pointsman.commands.explain import question, run_explain

    asked = question(body=body, raw=raw, path=path, headers=header or [], request=request, session=session, model=model)
    return run_explain(inquiry, asked)


@asks(
    deciding,
    panel=PANEL,
    example="pointsman decisions --status 5xx; pointsman decisions 6f1c8a04-5d3e",
    shared=FILTERS,
)
def decisions(
    inquiry: Inquiry,
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="Request id, or its beginning; the latest decisions if absent.")
    ] = "",
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=MAX_LIST, help="Number of decisions, the newest first.")
    ] = 30,
    **filters: str,
) -> int:
    """List past decisions, or show the why of one: candidates, terms, and predicted beside what came."""
    from pointsman.commands.decisions import run_list, run_show

    if request:
        return run_show(inquiry, request)
    return run_list(inquiry, limit=last, **filters)


@asks(deciding, panel=PANEL, example="pointsman tail --model qwen3-8b --reason kv-moved", shared=FILTERS)
def tail(
    inquiry: Inquiry,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=MAX_LIST, help="Number of past decisions to begin with.")
    ] = 10,
    **filters: str,
) -> int:
    """Print decisions as their requests end, one line each, until Ctrl-C."""
    from pointsman.commands.tail import run_tail

    return run_tail(inquiry, last=last, **filters)


@asks(deciding, panel=PANEL, example="pointsman top")
def top(
    inquiry: Inquiry,
    once: Annotated[bool, typer.Option("--once", help="Print a single picture and exit.")] = False,
) -> int:
    """Show the edge as it works, once a second: replicas, requests by reason, TTFT, hit rate. The key q quits."""
    from pointsman.commands.top import run_top

    return run_top(inquiry, once=once)


@asks(deciding, panel=PANEL, example="pointsman events -f --kind audit")
def events(
    inquiry: Inquiry,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print events as they happen, until Ctrl-C.")] = False,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=MAX_LIST, help="Number of past events, the newest last.")
    ] = 30,
    kind: Annotated[str, typer.Option(help="Kind: audit, policy, alias, replica or edge.")] = "",
) -> int:
    """List what changed at this edge: replicas, policy, other edges, calls of the admin API and by whom."""
    from pointsman.commands.events import run_follow, run_list

    if follow:
        return run_follow(inquiry, last=last, kind=kind)
    return run_list(inquiry, limit=max(last, 1), kind=kind)
