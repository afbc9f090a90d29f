"""Commands about who shares the fleet: `pointsman keys ...`, `pointsman tenants ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.commands.options import Options, asks

if TYPE_CHECKING:
    from pointsman.commands.inquiry import Inquiry

keys = typer.Typer(help="Make, list, rotate and revoke API keys of clients.", no_args_is_help=True)
tenants = typer.Typer(help="See and set the tenants' shares, limits and pools.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a key, the second part of its secret.")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Name of a tenant.")]

NO_LIMIT = "; -1: none"


def _limit(text: str) -> tuple[Any, Any]:
    return Annotated[int | None, typer.Option(min=-1, help=text)], None


LIMITS: Options = {
    "requests_per_minute": _limit("Requests a minute" + NO_LIMIT + "."),
    "tokens_per_minute": _limit("Prompt and output tokens a minute" + NO_LIMIT + "."),
    "concurrent_requests": _limit("Requests at one time" + NO_LIMIT + "."),
    "tokens_per_day": _limit("Tokens a day, from midnight UTC" + NO_LIMIT + "."),
    "tokens_per_month": _limit("Tokens a calendar month, UTC" + NO_LIMIT + "."),
    "cached_weight": (
        Annotated[
            float | None, typer.Option(min=0.0, max=1.0, help="Weight of a cached prompt token in limits of tokens.")
        ],
        None,
    ),
}
"""Options that bound what a key or a tenant may use."""


@asks(keys, example="pointsman keys create --tenant acme --tokens-per-minute 100000 --expires 90d", shared=LIMITS)
def create(
    inquiry: Inquiry,
    tenant: Annotated[str, typer.Option(help="Tenant that the key's requests are of.")],
    expires: Annotated[
        str, typer.Option(metavar="WHEN", help="Duration such as 90d, or a time such as 2027-01-31T00:00:00Z.")
    ] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="Model that the key may ask for, once for each; all if absent.")
    ] = None,
    note: Annotated[str, typer.Option(help="Free text for people.")] = "",
    **limits: Any,
) -> int:
    """Make a key, and print its secret, which is shown this once."""
    from pointsman.commands.api_keys import run_create

    return run_create(inquiry, tenant, expires=expires, models=model or (), note=note, **limits)


@asks(keys, name="list", example="pointsman keys list --tenant acme")
def list_(
    inquiry: Inquiry,
    tenant: Annotated[str, typer.Option(help="Tenant of the keys.")] = "",
    state: Annotated[str, typer.Option(help="State: in-force, expired or revoked.")] = "",
) -> int:
    """List keys, without their secrets."""
    from pointsman.commands.api_keys import run_list

    return run_list(inquiry, tenant=tenant, state=state)


@asks(keys, example="pointsman keys show 3k9w2mxf7hqp")
def show(inquiry: Inquiry, key: KeyId) -> int:
    """Describe one key."""
    from pointsman.commands.api_keys import run_show

    return run_show(inquiry, key)


@asks(keys, example="pointsman keys rotate 3k9w2mxf7hqp --grace 12h")
def rotate(
    inquiry: Inquiry,
    key: KeyId,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="Time for which the old secret stays in force, such as 12h.")
    ] = "0s",
) -> int:
    """Give a key another secret, which is shown this once; id, limits and usage stay."""
    from pointsman.commands.api_keys import run_rotate

    return run_rotate(inquiry, key, grace)


@asks(keys, example="pointsman keys revoke 3k9w2mxf7hqp")
def revoke(inquiry: Inquiry, key: KeyId) -> int:
    """Revoke a key on all edges, within a second; its running streams finish."""
    from pointsman.commands.api_keys import run_revoke

    return run_revoke(inquiry, key)


@asks(tenants, name="list", example="pointsman tenants list")
def list_tenants(inquiry: Inquiry) -> int:
    """List the tenants that have settings or keys."""
    from pointsman.commands.api_keys import run_tenants

    return run_tenants(inquiry)


@asks(tenants, name="show", example="pointsman tenants show acme")
def show_tenant(inquiry: Inquiry, tenant: Tenant) -> int:
    """Describe one tenant."""
    from pointsman.commands.api_keys import run_tenant

    return run_tenant(inquiry, tenant)


@asks(tenants, name="set", example="pointsman tenants set acme --weight 3 --tokens-per-minute 100000", shared=LIMITS)
def set_tenant(
    inquiry: Inquiry,
    tenant: Tenant,
    weight: Annotated[
        float | None, typer.Option(help="Share of the tokens served while requests wait, relative to others.")
    ] = None,
    priority: Annotated[
        str | None, typer.Option(help="Class of its requests: batch, low, normal, high or critical.")
    ] = None,
    max_priority: Annotated[str | None, typer.Option(help="Highest class that its requests may name.")] = None,
    isolated: Annotated[
        bool | None, typer.Option(help="Keep cached prefixes and sessions apart from those of other tenants.")
    ] = None,
    reserve: Annotated[
        list[str] | None, typer.Option(metavar="POOL", help="Pool that serves this tenant alone, once for each.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="POOL", help="Pool that does not serve this tenant, once for each.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Free text for people.")] = None,
    **limits: Any,
) -> int:
    """Set a tenant's share, limits and pools; what is not given stays as it is."""
    from pointsman.commands.api_keys import run_set

    changes = {
        "weight": weight,
        "priority": priority,
        "max_priority": max_priority,
        "isolated": isolated,
        "reserved_pools": reserve or None,
        "excluded_pools": exclude or None,
        "note": note,
    }
    return run_set(inquiry, tenant, changes, limits)


@asks(tenants, name="remove", example="pointsman tenants remove acme")
def remove_tenant(inquiry: Inquiry, tenant: Tenant) -> int:
    """Take a tenant's settings away: it has the defaults; its keys stay."""
    from pointsman.commands.api_keys import run_remove

    return run_remove(inquiry, tenant)
