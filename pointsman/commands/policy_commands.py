"""Commands about the live policy: `pointsman policy ...`. Done by `pointsman.commands.policy` and its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.commands.options import asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

policy = typer.Typer(help="See, change and try the live policy.", no_args_is_help=True)

MAX_LIST = 1000

Document = Annotated[str, typer.Argument(metavar="POLICY", help="Policy name, YAML or JSON file, or inline document.")]
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
