"""`pointsman aliases`: what names stand for, and how the versions of a model fare beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pointsman.admin_client import segment
from pointsman.commands.inquiry import Inquiry, facts, notes, table_of
from pointsman.commands.shown import ABSENT, fitted, ms, share, short, whole
from pointsman.errors import StartError

PATH = "/v1/aliases"
NAME_WIDTH = 28


def run_list(inquiry: Inquiry) -> int:
    """Print all aliases."""
    inquiry.show(inquiry.client.get(PATH), lambda body: alias_list(body["aliases"]))
    return 0


def run_show(inquiry: Inquiry, alias: str) -> int:
    """Print one alias."""
    inquiry.show(inquiry.client.get(_path(alias)), alias_shown)
    return 0


def run_set(
    inquiry: Inquiry,
    alias: str,
    versions: Sequence[str],
    *,
    override: bool,
    stop: Mapping[str, Any],
    why: str,
    if_match: str,
) -> int:
    """Make or change an alias."""
    body: dict[str, Any] = {"versions": [version_of(given) for given in versions], "override": override}
    if stop:
        body["stop"] = dict(stop)
    answer = inquiry.client.call("PUT", _path(alias), query={"why": why}, body=body, if_match=if_match)
    inquiry.show(answer, alias_shown)
    return 0


def run_step(inquiry: Inquiry, alias: str, step: str, *, model: str = "", why: str, if_match: str) -> int:
    """Take one step of a rollout."""
    body = {name: value for name, value in (("model", model), ("why", why)) if value}
    answer = inquiry.client.call("POST", f"{_path(alias)}/{step}", body=body, if_match=if_match)
    inquiry.show(answer, alias_shown)
    return 0


def run_remove(inquiry: Inquiry, alias: str, *, why: str, if_match: str) -> int:
    """Remove an alias."""
    inquiry.client.call("DELETE", _path(alias), query={"why": why}, if_match=if_match)
    inquiry.say(f"alias {alias} is removed")
    return 0


def version_of(given: str) -> dict[str, Any]:
    """A version as the API takes it, of `MODEL` or `MODEL=WEIGHT`. Raises StartError."""
    model, equals, weight = given.rpartition("=")
    if not equals:
        return {"model": given, "weight": 1.0}
    try:
        return {"model": model, "weight": float(weight.rstrip("%"))}
    except ValueError:
        raise StartError(f"{given}: MODEL=WEIGHT such as m-v2=10 is expected") from None


def alias_list(views: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A row for each version of each alias."""
    if not views:
        return "no alias: `pointsman aliases set ALIAS MODEL` makes one"
    rows = [
        (fitted(view["name"], NAME_WIDTH) if number == 0 else "", *_row(version), _state(view, version))
        for view in views
        for number, version in enumerate(view["versions"])
    ]
    return table_of(("alias", *COLUMNS, "state"), rows, right=RIGHT)


def alias_shown(view: Mapping[str, Any]) -> RenderableType:
    """One alias: its versions beside each other, and what the rollout costs."""
    state = "paused" if view["paused"] else ""
    by = f", by {view['author']}" if view["author"] else ""
    title = Text.assemble((view["name"], "bold"), f"  change {view['version']}{by}", f"  {state}" if state else "")
    rows = [(*_row(version), _state(view, version)) for version in view["versions"]]
    about = {
        "why": view["why"],
        "changed version": f"{whole(view['sessions_moved'])} times a session did",
        "computed again": f"{short(view['recomputed_tokens'])} prompt tokens",
        "stops at": _stop(view["stop"]),
        "testers": "may name their version" if view["override"] else "",
    }
    return Group(title, facts(about), "", table_of((*COLUMNS, "state"), rows, right=RIGHT), *notes(view["warnings"]))


RIGHT = ("share", "sessions", "requests", "errors", "TTFT p50", "p99", "replicas")
COLUMNS = ("model", *RIGHT)


def _row(version: Mapping[str, Any]) -> tuple[str, ...]:
    ttft = version["ttft_ms"] or {}
    errors = f"{whole(version['errors'])} ({share(version['error_share'])})" if version["requests"] else ABSENT
    return (
        fitted(version["model"], NAME_WIDTH),
        share(version["share"]),
        whole(version["sessions"]),
        whole(version["requests"]),
        errors,
        ms(ttft.get("p50")),
        ms(ttft.get("p99")),
        whole(len(version["replicas"])),
    )


def _state(view: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    if version["stable"]:
        return "stable"
    if version["withdrawn"]:
        return "withdrawn"
    return "paused" if view["paused"] else ABSENT


def _stop(stop: Mapping[str, Any] | None) -> str:
    if stop is None:
        return ""
    parts = []
    if stop.get("error_share") is not None:
        parts.append(f"{share(stop['error_share'])} more errors")
    if stop.get("ttft_p99_ratio") is not None:
        parts.append(f"{stop['ttft_p99_ratio']:g} x the TTFT p99")
    return " or ".join(parts)


def _path(alias: str) -> str:
    return f"{PATH}/{segment(alias)}"
