"""Commands about aliases: `pointsman aliases ...`. Done by `pointsman.commands.aliases`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import Options, asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

aliases = typer.Typer(help="See and change what names stand for, and roll a model out.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="ALIAS", help="Name of an alias.")]

CHANGE: Options = {
    "why": (Annotated[str, typer.Option(help="Reason of the change.")], ""),
    "if_match": (
        Annotated[str, typer.Option(metavar="ETAG", help="ETag that the alias must have; otherwise nothing changes.")],
        "",
    ),
}
"""Options of all commands that change an alias."""


@asks(aliases, name="list", example="pointsman aliases list")
def list_(inquiry: Inquiry) -> int:
    """List aliases, their versions by share of new sessions, and how each fares."""
    from pointsman.commands.aliases import run_list

    return run_list(inquiry)


@asks(aliases, example="pointsman aliases show chat")
def show(inquiry: Inquiry, alias: Name) -> int:
    """Print one alias: its versions beside each other, and what the rollout costs."""
    from pointsman.commands.aliases import run_show

    return run_show(inquiry, alias)


@asks(aliases, name="set", example="pointsman aliases set chat m-v1=90 m-v2=10 --stop-error-share 0.05", shared=CHANGE)
def set_(
    inquiry: Inquiry,
    alias: Name,
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL=WEIGHT...", help="Model and its share of new sessions, the stable one first; =1 if absent."
        ),
    ],
    override: Annotated[
        bool, typer.Option("--override", help="Let requests name their version in `version_header`.")
    ] = False,
    stop_error_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of errors above the stable version's at which a version is stopped."),
    ] = None,
    stop_ttft_ratio: Annotated[
        float | None,
        typer.Option(min=1, help="99th percentile of TTFT over the stable version's at which a version is stopped."),
    ] = None,
    stop_min_requests: Annotated[
        int | None, typer.Option(min=1, help="Requests of each version before it is judged; the router's if absent.")
    ] = None,
    stop_rolls_back: Annotated[
        bool, typer.Option("--stop-rolls-back", help="Move the sessions of a version that is stopped, too.")
    ] = False,
    **change: str,
) -> int:
    """Make an alias, or change what it stands for."""
    from pointsman.commands.aliases import run_set

    stop = {"error_share": stop_error_share, "ttft_p99_ratio": stop_ttft_ratio, "min_requests": stop_min_requests}
    stop_given = {name: value for name, value in stop.items() if value is not None}
    if stop_rolls_back:
        stop_given["roll_back"] = True
    return run_set(inquiry, alias, versions, override=override, stop=stop_given, **change)


@asks(aliases, example="pointsman aliases promote chat m-v2", shared=CHANGE)
def promote(
    inquiry: Inquiry,
    alias: Name,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Version; the only one that is not stable if absent.")
    ] = "",
    **change: str,
) -> int:
    """Make a version the stable one, with which all new sessions begin."""
    from pointsman.commands.aliases import run_step

    return run_step(inquiry, alias, "promote", model=model, **change)


@asks(aliases, example="pointsman aliases pause chat --why 'errors went up'", shared=CHANGE)
def pause(inquiry: Inquiry, alias: Name, **change: str) -> int:
    """Have all new sessions begin with the stable version; those under way keep theirs."""
    from pointsman.commands.aliases import run_step

    return run_step(inquiry, alias, "pause", **change)


@asks(aliases, example="pointsman aliases resume chat", shared=CHANGE)
def resume(inquiry: Inquiry, alias: Name, **change: str) -> int:
    """Have new sessions go by the weights again."""
    from pointsman.commands.aliases import run_step

    return run_step(inquiry, alias, "resume", **change)


@asks(aliases, example="pointsman aliases rollback chat --why 'wrong answers'", shared=CHANGE)
def rollback(
    inquiry: Inquiry,
    alias: Name,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Version to withdraw; all but the stable one if absent.")
    ] = "",
    **change: str,
) -> int:
    """Withdraw versions: their sessions, too, are served by the stable one."""
    from pointsman.commands.aliases import run_step

    return run_step(inquiry, alias, "rollback", model=model, **change)


@asks(aliases, example="pointsman aliases remove chat", shared=CHANGE)
def remove(inquiry: Inquiry, alias: Name, **change: str) -> int:
    """Remove an alias: requests for its name are refused, unless a replica has it."""
    from pointsman.commands.aliases import run_remove

    return run_remove(inquiry, alias, **change)
