"""`pointsman keys` and `pointsman tenants`: who may use the fleet, and how much of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType

from pointsman.admin_client import segment
from pointsman.commands.inquiry import Inquiry, facts, print_raw, table_of
from pointsman.commands.shown import day_and_time, fitted, short, since
from pointsman.errors import StartError

NAME_WIDTH = 24
MODELS_WIDTH = 24

UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)")

LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "at one time",
    "tokens_per_day": "tokens/day",
    "tokens_per_month": "tokens/month",
}
"""Names of limits, and their units for people."""


def parse_span(text: str, flag: str) -> float:
    """Seconds of a text such as `90 s`, `15min`, `12h` or `30d`. Raises StartError."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise StartError(f"{flag}: {text!r}: a duration is expected, such as 90s, 15min, 12h or 30d")
    return float(found[1]) * UNITS_S[found[2]]


def parse_expiry(text: str, now: datetime) -> str | None:
    """Time of expiry in RFC 3339; None for an empty text. Raises StartError.

    text: a duration, or a time in RFC 3339 with its offset from UTC.
    """
    if not text:
        return None
    if _SPAN.fullmatch(text.strip()):
        return (now + timedelta(seconds=parse_span(text, "--expires"))).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise StartError(f"--expires: {text!r}: a duration such as 30d, or a time such as 2027-01-31T00:00:00Z")
    return moment.isoformat()


def run_create(inquiry: Inquiry, tenant: str, *, expires: str, models: Sequence[str], note: str, **limits: Any) -> int:
    """Make a key, and print its secret on standard output."""
    body = {
        "tenant": tenant,
        "expires": parse_expiry(expires, datetime.now(UTC)),
        "models": list(models),
        "limits": given_limits(limits),
        "note": note,
    }
    return _show_secret(inquiry, inquiry.client.call("POST", "/v1/keys", body=body), "made")


def run_rotate(inquiry: Inquiry, key_id: str, grace: str) -> int:
    """Give a key another secret, and print it on standard output."""
    body = {"grace_s": parse_span(grace, "--grace")}
    answer = inquiry.client.call("POST", f"/v1/keys/{segment(key_id)}/rotate", body=body)
    return _show_secret(inquiry, answer, "rotated")


def _show_secret(inquiry: Inquiry, answer: Any, done: str) -> int:
    if inquiry.as_json:
        print_raw(answer.body)
        return 0
    view = answer.json()
    # For a script alone on standard output; what people read goes beside it.
    print(view["key"])
    lines = [f"key {view['id']} of tenant {view['tenant']} is {done}; its secret is shown this once"]
    if view["old_secret_until"]:
        lines.append(f"the old secret stays in force until {day_and_time(view['old_secret_until'], None)}")
    if not view["required"]:
        lines.append("this edge's HAProxy requires no key: `up --require-keys`, or haproxy's keys_map, makes it")
    print("\n".join(lines), file=sys.stderr)
    return 0


def run_list(inquiry: Inquiry, **filters: str) -> int:
    """Print the keys; empty filters are left out."""
    answer = inquiry.client.get("/v1/keys", **filters)
    inquiry.show(answer, lambda body: key_list(body["keys"], chosen=any(filters.values())))
    return 0


def run_show(inquiry: Inquiry, key_id: str) -> int:
    """Print one key."""
    inquiry.show(inquiry.client.get(f"/v1/keys/{segment(key_id)}"), key_facts)
    return 0


def run_revoke(inquiry: Inquiry, key_id: str) -> int:
    """Revoke a key on all edges."""
    inquiry.client.call("DELETE", f"/v1/keys/{segment(key_id)}")
    inquiry.say(f"key {key_id} is revoked on all edges")
    return 0


def key_list(keys: Sequence[Mapping[str, Any]], *, chosen: bool = False) -> RenderableType:
    """A row for each key. chosen: whether filters left some out."""
    if not keys:
        return "no key matches" if chosen else "there are no keys"
    now = datetime.now(UTC)
    rows = (
        (
            key["id"],
            fitted(key["tenant"], NAME_WIDTH),
            key["state"],
            since(key["created"], now),
            _when(key["expires"]),
            fitted(", ".join(key["models"]), MODELS_WIDTH),
            limits_text(key["limits"]),
            fitted(key["note"], NAME_WIDTH),
        )
        for key in keys
    )
    return table_of(("key", "tenant", "state", "age", "expires", "models", "limits", "note"), rows, flexible="limits")


def key_facts(key: Mapping[str, Any]) -> RenderableType:
    """One key."""
    rows = {
        "tenant": key["tenant"],
        "made": day_and_time(key["created"], None),
        "expires": _when(key["expires"]),
        "revoked": _when(key["revoked"]),
        "old secret until": _when(key["old_secret_until"]),
        "models": ", ".join(key["models"]) or "all",
        **_limit_facts(key),
        "note": key["note"],
    }
    return Group(f"{key['id']}  {key['state']}", facts(rows))


def run_tenants(inquiry: Inquiry) -> int:
    """Print the tenants."""
    inquiry.show(inquiry.client.get("/v1/tenants"), lambda body: tenant_list(body["tenants"]))
    return 0


def run_tenant(inquiry: Inquiry, name: str) -> int:
    """Print one tenant."""
    inquiry.show(inquiry.client.get(f"/v1/tenants/{segment(name)}"), tenant_facts)
    return 0


def run_set(inquiry: Inquiry, name: str, changes: Mapping[str, Any], limits: Mapping[str, Any]) -> int:
    """Change some settings of a tenant, and leave the others.

    changes: settings by name, None for those to leave. limits: of all its keys together, likewise; -1 takes one away.
    """
    path = f"/v1/tenants/{segment(name)}"
    settings, etag = _settings_of(inquiry, name)
    settings |= {key: value for key, value in changes.items() if value is not None}
    bounds = settings.get("limits", {}) | given_limits(limits)
    settings["limits"] = {key: None if value == -1 else value for key, value in bounds.items()}
    inquiry.show(inquiry.client.call("PUT", path, body=settings, if_match=etag), tenant_facts)
    return 0


def run_remove(inquiry: Inquiry, name: str) -> int:
    """Take a tenant's settings away."""
    inquiry.client.call("DELETE", f"/v1/tenants/{segment(name)}")
    inquiry.say(f"tenant {name} has the defaults; its keys stay")
    return 0


def _settings_of(inquiry: Inquiry, name: str) -> tuple[dict[str, Any], str]:
    """Present settings of a tenant, and their version; none for one without."""
    answer = inquiry.client.call("GET", f"/v1/tenants/{segment(name)}", accepted=(404,))
    if answer.status == 404:
        return {}, ""
    settings = {key: value for key, value in answer.json().items() if key not in ("name", "keys")}
    return settings, answer.etag


def tenant_list(tenants: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A row for each tenant."""
    if not tenants:
        return "no tenant has settings or keys"
    rows = (
        (
            fitted(tenant["name"], NAME_WIDTH),
            short(tenant["keys"]),
            f"{tenant['weight']:g}",
            tenant["priority"],
            limits_text(tenant["limits"]),
            "yes" if tenant["isolated"] else "",
            fitted(tenant["note"], NAME_WIDTH),
        )
        for tenant in tenants
    )
    columns = ("tenant", "keys", "weight", "priority", "limits", "isolated", "note")
    return table_of(columns, rows, right=("keys", "weight"), flexible="limits")


def tenant_facts(tenant: Mapping[str, Any]) -> RenderableType:
    """One tenant."""
    highest = tenant["max_priority"]
    rows = {
        "keys in force": str(tenant["keys"]),
        "weight": f"{tenant['weight']:g}",
        "priority": tenant["priority"] + ("" if highest == tenant["priority"] else f", up to {highest}"),
        **_limit_facts(tenant),
        "isolated": "yes" if tenant["isolated"] else "",
        "reserved pools": ", ".join(tenant["reserved_pools"]),
        "excluded pools": ", ".join(tenant["excluded_pools"]),
        "note": tenant["note"],
    }
    return Group(tenant["name"], facts(rows))


def given_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that were given."""
    return {name: value for name, value in limits.items() if value is not None}


def limits_text(limits: Mapping[str, Any]) -> str:
    """Limits in one line."""
    return ", ".join(f"{short(limits[name])} {unit}" for name, unit in LIMITS.items() if limits[name] is not None)


def _when(text: str | None) -> str:
    return "" if text is None else day_and_time(text, None)


def _limit_facts(view: Mapping[str, Any]) -> dict[str, str]:
    by_model = {f"limits of {model}": limits_text(limits) for model, limits in view["model_limits"].items()}
    weight = view["limits"]["cached_weight"]
    return {
        "limits": limits_text(view["limits"]),
        **by_model,
        "cached tokens": "" if weight == 1 else f"count {weight:g}",
    }
