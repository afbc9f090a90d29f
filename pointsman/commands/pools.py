"""`pointsman pools`: pools of replicas as the drivers of their fleets report them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import segment
from pointsman.commands.inquiry import Inquiry, facts, notes, state_text, table_of
from pointsman.commands.shown import ABSENT, fitted, whole

NAME_WIDTH = 24
ERROR_MAX = 300
"""Characters shown of why a configuration was refused; `--json` has the traceback."""


def run_list(inquiry: Inquiry) -> int:
    """Print all pools."""
    inquiry.show(inquiry.client.get("/v1/pools"), lambda body: pool_list(body["pools"]))
    return 0


def run_show(inquiry: Inquiry, pool: str) -> int:
    """Print one pool with its members."""
    inquiry.show(inquiry.client.get(f"/v1/pools/{segment(pool)}"), pool_facts)
    return 0


def pool_list(pools: list[dict[str, Any]]) -> RenderableType:
    """A row for each pool, and below them why a configuration was refused."""
    if not pools:
        return "no pool: replicas of this edge were registered one by one, or no driver leases pools to it"
    right = ("ready", "wanted", "max")
    rows = [
        (
            fitted(pool["name"], NAME_WIDTH),
            state_text(pool["state"]),
            whole(pool["ready"]),
            whole(pool["replicas"]),
            whole(pool["replicas_max"]),
            pool["role"],
            fitted(pool["model"], NAME_WIDTH),
            fitted(pool["fleet"], NAME_WIDTH),
            fitted(pool["revision"], 10),
        )
        for pool in pools
    ]
    errors = [f"{pool['name']}: {_error(pool)}" for pool in pools if pool["error"]]
    return Group(
        table_of(("pool", "state", *right, "role", "model", "fleet", "revision"), rows, right=right), *notes(errors)
    )


def pool_facts(pool: Mapping[str, Any]) -> RenderableType:
    """One pool and its members."""
    title = Text.assemble((pool["name"], "bold"), "  ", state_text(pool["state"]))
    rows = {
        "model": pool["model"],
        "replicas": f"{whole(pool['ready'])} ready of {whole(pool['replicas'])}, at most {whole(pool['replicas_max'])}",
        "role": pool["role"],
        "fleet": pool["fleet"],
        "revision": pool["revision"],
        "refused": _error(pool),
    }
    members = [
        (
            member["id"],
            state_text(member["state"]),
            whole(member["deaths"]),
            fitted(member["revision"], 10),
            member["urls"][0] + (f" and {len(member['urls']) - 1} more" if len(member["urls"]) > 1 else "")
            if member["urls"]
            else ABSENT,
        )
        for member in pool["members"]
    ]
    table = table_of(("member", "state", "deaths", "revision", "url"), members, right=("deaths",))
    return Group(title, facts(rows), *((table,) if members else ()))


def _error(pool: Mapping[str, Any]) -> str:
    """The last line of an error, where a traceback says what it was."""
    lines = [line for line in pool["error"].splitlines() if line.strip()]
    return lines[-1].strip()[:ERROR_MAX] if lines else ""
