"""Commands about the fleet: replicas, pools, sessions, edges. Declared here, done by the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

fleet = typer.Typer()

PANEL = "Look and change"
"""Heading of these commands in `pointsman --help`."""

ReplicaId = Annotated[str, typer.Argument(metavar="REPLICA", help="Replica id.")]


@asks(fleet, panel=PANEL, example="pointsman status || pointsman events")
def status(inquiry: Inquiry) -> int:
    """Print whether the edge is well; exit code 1 if something is not."""
    from pointsman.commands.status import run_status

    return run_status(inquiry)


@asks(fleet, panel=PANEL, example="pointsman replicas; pointsman replicas chat-3")
def replicas(
    inquiry: Inquiry,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="Replica id; all replicas if absent.")] = "",
    state: Annotated[str, typer.Option(help="State: starting, up, down, draining or ejected.")] = "",
    model: Annotated[str, typer.Option(help="Model, alias or adapter that the replicas serve.")] = "",
    pool: Annotated[str, typer.Option(help="Pool of the replicas.")] = "",
    role: Annotated[str, typer.Option(help="Role: both, prefill or decode.")] = "",
) -> int:
    """List replicas, or describe one: its state and why, load, KV, hit rate."""
    from pointsman.commands.replicas import run_list, run_show

    if replica:
        return run_show(inquiry, replica)
    return run_list(inquiry, state=state, model=model, pool=pool, role=role)


@asks(fleet, panel=PANEL, example="pointsman drain sim-2")
def drain(inquiry: Inquiry, replica: ReplicaId) -> int:
    """Drain a replica: it gets no further requests, and its streams finish."""
    from pointsman.commands.replicas import run_change

    return run_change(inquiry, replica, "drain")


@asks(fleet, panel=PANEL, example="pointsman undrain sim-2")
def undrain(inquiry: Inquiry, replica: ReplicaId) -> int:
    """End the drain of a replica: it gets requests again."""
    from pointsman.commands.replicas import run_change

    return run_change(inquiry, replica, "undrain")


@asks(fleet, panel=PANEL, example="pointsman reset chat-3")
def reset(inquiry: Inquiry, replica: ReplicaId) -> int:
    """End the ejection of a replica at this edge; its next answers are judged anew."""
    from pointsman.commands.replicas import run_change

    return run_change(inquiry, replica, "reset")


@asks(fleet, panel=PANEL, example="pointsman pools; pointsman pools chat")
def pools(
    inquiry: Inquiry,
    pool: Annotated[str, typer.Argument(metavar="POOL", help="Name of a pool; all pools if absent.")] = "",
) -> int:
    """List pools of replicas, or describe one with its members."""
    from pointsman.commands.pools import run_list, run_show

    return run_show(inquiry, pool) if pool else run_list(inquiry)


@asks(fleet, panel=PANEL, example="pointsman usage --by tenant,day; pointsman usage export --from 2026-11-01")
def usage(
    inquiry: Inquiry,
    what: Annotated[
        str, typer.Argument(metavar="[export]", help="`export` prints every row, one JSON document a line.")
    ] = "",
    begin: Annotated[
        str, typer.Option("--from", metavar="TIME", help="First hour, in ISO 8601; the present month if absent.")
    ] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Time before which it ends; now if absent.")] = "",
    by: Annotated[
        str, typer.Option(metavar="NAMES", help="Names to add up by: tenant, key, model, adapter, hour, day.")
    ] = "tenant",
) -> int:
    """Print requests and tokens by tenant, or by what `--by` names; estimates are marked."""
    from pointsman.commands.usage import run_usage

    return run_usage(inquiry, what, by=by, **{"from": begin, "to": end})


@asks(fleet, panel=PANEL, example="pointsman sessions --replica chat-1; pointsman sessions ab12 --move chat-2")
def sessions(
    inquiry: Inquiry,
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Session id of the client; all sessions if absent.")
    ] = "",
    move: Annotated[str, typer.Option(metavar="REPLICA", help="Replica that its next request goes to.")] = "",
    forget: Annotated[bool, typer.Option("--forget", help="Forget the session on all edges.")] = False,
    replica: Annotated[str, typer.Option(help="Replica that the sessions live on.")] = "",
    model: Annotated[str, typer.Option(help="Model that the sessions' replicas serve.")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the sessions, where tenants are isolated.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Number of sessions, by key.")] = 30,
) -> int:
    """List sessions and the replicas they live on; or describe one, move it, forget it."""
    from pointsman.commands.sessions import run_forget, run_list, run_move, run_show
    from pointsman.errors import StartError

    if not session:
        if move or forget:
            raise StartError("sessions: --move and --forget need the id of a session")
        return run_list(inquiry, limit=limit, replica=replica, model=model, tenant=tenant)
    if move and forget:
        raise StartError("--move and --forget: one of them is expected, not both")
    if move:
        return run_move(inquiry, session, tenant, move)
    return run_forget(inquiry, session, tenant) if forget else run_show(inquiry, session, tenant)


@asks(fleet, panel=PANEL, example="pointsman edges")
def edges(inquiry: Inquiry) -> int:
    """List the edges that share state with this one; exit code 1 if this one does not follow them all."""
    from pointsman.commands.edges import run_edges

    return run_edges(inquiry)


@asks(fleet, panel=PANEL, example="pointsman doctor --config /etc/pointsman/router.yaml")
def doctor(
    inquiry: Inquiry,
    config: Annotated[
        Path | None, typer.Option(help="Settings file of the router; the router itself is asked if absent.")
    ] = None,
) -> int:
    """Check an installation line by line, and say what mends each fault; exit code 1 if there is one."""
    from pointsman.commands.doctor import run_doctor

    return run_doctor(inquiry, config)
