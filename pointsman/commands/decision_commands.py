"""Commands about decisions: past ones, those that would be made, and those that are. Done by the modules beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

deciding = typer.Typer()

PANEL = "See decisions"
"""Heading of these commands in `pointsman --help`."""

MAX_LIST = 1000
"""Largest page of the admin API."""

Session = Annotated[str, typer.Option(help="Session, as the client named it or as its hash.")]
Model = Annotated[str, typer.Option(help="Model that the request asked for.")]
Tenant = Annotated[str, typer.Option(help="Tenant (API key), or its hash.")]
Served = Annotated[str, typer.Option("--replica", help="Replica that served.")]
Reason = Annotated[str, typer.Option(help="Reason of the decision, e.g. kv-moved; docs/metrics.md lists them.")]
Status = Annotated[str, typer.Option(help="Status that the client received, or a class such as 5xx.")]


@asks(deciding, panel=PANEL, example="pointsman decisions --status 5xx; pointsman decisions 6f1c8a04-5d3e")
def decisions(
    inquiry: Inquiry,
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="Request id (x-request-id); the latest decisions if absent.")
    ] = "",
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=MAX_LIST, help="Number of decisions, the newest first.")
    ] = 30,
    session: Session = "",
    model: Model = "",
    tenant: Tenant = "",
    replica: Served = "",
    reason: Reason = "",
    status: Status = "",
    policy: Annotated[str, typer.Option(help="Policy that decided.")] = "",
) -> int:
    """List past decisions, or show the why of one: candidates, terms, and predicted beside what came."""
    from pointsman.commands.decisions import run_list, run_show

    if request:
        return run_show(inquiry, request)
    filters = {"session": session, "model": model, "tenant": tenant, "replica": replica}
    return run_list(inquiry, limit=last, **filters, reason=reason, status=status, policy=policy)


@asks(deciding, panel=PANEL, example="pointsman tail --model qwen3-8b --reason kv-moved")
def tail(
    inquiry: Inquiry,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=MAX_LIST, help="Number of past decisions to begin with.")
    ] = 10,
    session: Session = "",
    model: Model = "",
    tenant: Tenant = "",
    replica: Served = "",
    reason: Reason = "",
    status: Status = "",
) -> int:
    """Print decisions as their requests end, one line each, until Ctrl-C."""
    from pointsman.commands.tail import run_tail

    filters = {"session": session, "model": model, "tenant": tenant, "replica": replica}
    return run_tail(inquiry, last=last, **filters, reason=reason, status=status)


@asks(deciding, panel=PANEL, example="pointsman events -f --kind audit")
def events(
    inquiry: Inquiry,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print events as they happen, until Ctrl-C.")] = False,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, max=MAX_LIST, help="Number of past events, the newest last.")
    ] = 30,
    kind: Annotated[str, typer.Option(help="Kind: audit, policy, replica or edge.")] = "",
) -> int:
    """List what changed at this edge: replicas, policy, other edges, calls of the admin API and by whom."""
    from pointsman.commands.events import run_follow, run_list

    if follow:
        return run_follow(inquiry, last=last, kind=kind)
    return run_list(inquiry, limit=max(last, 1), kind=kind)
