"""Commands about the live policy: `pointsman policy ...`. Done by `pointsman.commands.policy` and its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import asks
from pointsman.errors import StartError

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

policy = typer.Typer(help="See, change and try the live policy.", no_args_is_help=True)

MAX_LIST = 1000

MAX_REPLAYED = 100_000
"""Decisions that a router tries a policy on at most."""

Document = Annotated[str, typer.Argument(metavar="POLICY", help="Policy name, YAML or JSON file, or inline document.")]
OptionalDocument = Annotated[
    str,
    typer.Argument(metavar="POLICY", help="Policy name, file, or inline document; the present state if absent."),
]
Why = Annotated[str, typer.Option(help="Reason of the change, kept with its revision.")]
IfMatch = Annotated[
    str, typer.Option(metavar="ETAG", help="ETag that the live policy must have; otherwise nothing changes.")
]


@asks(policy, example="pointsman policy get > policy.yaml")
def get(
    inquiry: Inquiry,
    revision: Annotated[
        int | None, typer.Argument(min=1, metavar="REVISION", help="Number of a revision; the live policy if absent.")
    ] = None,
) -> int:
    """Print the live policy, or an earlier revision, as YAML that `policy set` takes."""
    from pointsman.commands.policy import run_get

    return run_get(inquiry, revision)


@asks(policy, name="set", example="pointsman policy set policy.yaml --why 'longer prompts since Monday'")
def set_(
    inquiry: Inquiry,
    document: Document,
    why: Why = "",
    if_match: IfMatch = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the document and change nothing.")] = False,
) -> int:
    """Put a policy live, and print what differs from the one before."""
    from pointsman.commands.policy import run_set

    return run_set(inquiry, document, why=why, if_match=if_match, dry_run=dry_run)


@asks(policy, example="pointsman policy diff 16 17")
def diff(
    inquiry: Inquiry,
    earlier: Annotated[
        int | None, typer.Argument(min=1, metavar="FROM", help="Revision to compare; the one before TO if absent.")
    ] = None,
    later: Annotated[
        int | None, typer.Argument(min=1, metavar="TO", help="Revision to compare with; the live one if absent.")
    ] = None,
) -> int:
    """Print the values that differ between two revisions."""
    from pointsman.commands.policy import run_diff

    return run_diff(inquiry, earlier, later)


@asks(policy, example="pointsman policy history -n 5")
def history(
    inquiry: Inquiry,
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=MAX_LIST, help="Number of revisions, the newest first.")
    ] = 20,
) -> int:
    """List the policies that were live: when, by whom, and why."""
    from pointsman.commands.policy import run_history

    return run_history(inquiry, last)


@asks(policy, example="pointsman policy rollback --why 'TTFT went up'")
def rollback(
    inquiry: Inquiry,
    revision: Annotated[
        int | None,
        typer.Argument(min=1, metavar="REVISION", help="Revision to put live; the one live before if absent."),
    ] = None,
    why: Why = "",
    if_match: IfMatch = "",
) -> int:
    """Put an earlier revision of the policy live again."""
    from pointsman.commands.policy import run_rollback

    return run_rollback(inquiry, revision, why=why, if_match=if_match)


@asks(policy, name="dry-run", example="pointsman policy dry-run policy.yaml --last 5000")
def dry_run(
    inquiry: Inquiry,
    document: Document,
    last: Annotated[
        int, typer.Option("--last", "-n", min=1, max=MAX_REPLAYED, help="Number of decisions, the latest ones.")
    ] = 1000,
    model: Annotated[str, typer.Option(help="Model of the requests.")] = "",
    tenant: Annotated[str, typer.Option(help="Tenant of the requests, or its hash.")] = "",
) -> int:
    """Print what a policy would have decided on past requests: share that moves, TTFT, cached tokens."""
    from pointsman.commands.policy_trial import run_dry_run

    return run_dry_run(inquiry, document, last=last, model=model, tenant=tenant)


@asks(policy, example="pointsman policy shadow policy.yaml; pointsman policy shadow; pointsman policy shadow --off")
def shadow(
    inquiry: Inquiry,
    document: OptionalDocument = "",
    off: Annotated[bool, typer.Option("--off", help="Take the shadow away.")] = False,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that the shadow decides.")] = 1.0,
    why: Why = "",
) -> int:
    """Have a second policy decide beside the live one, to no effect; or print how the two compare."""
    from pointsman.commands.policy_shadow import run_off, run_put, run_show

    _check_one(document, off, "--off")
    if off:
        return run_off(inquiry)
    return run_put(inquiry, document, sample=sample, why=why) if document else run_show(inquiry)


@asks(policy, example="pointsman policy rollout policy.yaml --steps 10%,50%; pointsman policy rollout")
def rollout(
    inquiry: Inquiry,
    document: OptionalDocument = "",
    stop: Annotated[bool, typer.Option("--stop", help="End the rollout.")] = False,
    steps: Annotated[
        str, typer.Option(metavar="SHARES", help="Shares of new sessions, e.g. 10%,50%; the router's if absent.")
    ] = "",
    step_s: Annotated[
        float | None, typer.Option(min=1, help="Shortest time of a step, in seconds; the router's if absent.")
    ] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(min=1, help="Requests under each policy before a step is over; the router's if absent."),
    ] = None,
    ttft_ratio: Annotated[
        float | None, typer.Option(min=1, help="Typical TTFT over the live policy's that is allowed.")
    ] = None,
    error_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of errors above the live policy's that is allowed.")
    ] = None,
    why: Why = "",
    if_match: IfMatch = "",
) -> int:
    """Roll a policy out to a share of new sessions, and return by itself if it is worse; or print how it fares."""
    from pointsman.commands.policy_rollout import run_show, run_start, run_stop

    _check_one(document, stop, "--stop")
    if stop:
        return run_stop(inquiry)
    if not document:
        return run_show(inquiry)
    bounds = {"ttft_ratio": ttft_ratio, "error_share": error_share}
    about = {"step_s": step_s, "min_requests": min_requests, "why": why}
    return run_start(inquiry, document, steps=steps, bounds=bounds, if_match=if_match, **about)


def _check_one(document: str, ends: bool, flag: str) -> None:
    """Raises StartError for an order to begin and to end."""
    if document and ends:
        raise StartError(f"POLICY and {flag}: one of them is expected, not both")
