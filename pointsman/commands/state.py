"""`pointsman state ...`: what the edges of a fleet know, asked of the edges themselves.

Any edge names the others; each is asked over its admin API. What differs at one moment may be on its way, so `check`
looks several times and reports what differed in all looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from pointsman.commands.engine import admin_token
from pointsman.contract.tls import trusting
from pointsman.errors import StartError

TIMEOUT_S = 10.0
LOOKS = 7
BETWEEN_LOOKS_S = 2.0
"""In between edges repeat all their state twice: what differs in all looks is not on its way."""

UNPROMISED = "conversations"
"""A copy of a conversation that its writer dropped may stay on another edge until it is forgotten."""

EXIT_DISAGREE = 1

SILENT = "no answer"
"""In place of a store's state: the edge itself does not answer."""

Views = dict[str, dict[str, Any]]
"""By admin URL: what the edge there says of itself and the others."""


def run_dump(admin: list[str], *, as_json: bool) -> int:
    """Prints who is there, how far each follows the others, and what it knows. Raises StartError."""
    with _client() as client:
        views = edges_of(client, admin)
        known = known_by(client, views)
    if as_json:
        print(json.dumps({"edges": views, "known": known}))
        return 0
    console = Console()
    console.print(_edges_table(views))
    console.print(_known_table(views, known))
    return 0


def run_check(admin: list[str], *, as_json: bool) -> int:
    """0 when all edges are in step and know the same, else 1 and what is wrong. Raises StartError."""
    with _client() as client:
        looks = []
        for look in range(LOOKS):
            if look:
                time.sleep(BETWEEN_LOOKS_S)
            views = edges_of(client, admin)
            known = known_by(client, views)
            looks.append(set(problems(views, known)))
            if not looks[-1]:
                break
    lasting = sorted(set.intersection(*looks))
    if as_json:
        print(json.dumps({"edges": len(views), "problems": lasting}))
    elif lasting:
        print("\n".join(lasting))
    else:
        print(f"{len(views)} edges agree")
    return EXIT_DISAGREE if lasting else 0


def edges_of(client: httpx.Client, admin: Iterable[str]) -> Views:
    """Every edge that those named know of, and those. Raises StartError when a named one does not answer."""
    views: Views = {}
    todo = [(url.rstrip("/"), True) for url in admin]
    seen: set[str] = set()
    while todo:
        url, named = todo.pop(0)
        try:
            view = _get(client, f"{url}/v1/edges")
        except StartError:
            if named:
                raise
            views[url] = {"edge": "", "name": url, "store": SILENT, "in_step": False, "batches": 0, "edges": []}
            continue
        if view["edge"] and view["edge"] in seen:
            continue
        seen.add(view["edge"])
        views[url] = view
        todo += [
            (other["admin_url"], False)
            for other in view["edges"]
            if other["edge"] not in seen and other["state"] != "silent" and other["admin_url"] not in views
        ]
    return views


def known_by(client: httpx.Client, views: Views) -> dict[str, dict[str, Any]]:
    """Counts and digests of all edges that answer."""
    asked = [url for url, view in views.items() if view["store"] != SILENT]
    return {url: _get(client, f"{url}/v1/state/digests")["parts"] for url in asked}


def problems(views: Views, known: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence each."""
    found = []
    for view in views.values():
        if view["store"] == SILENT:
            found.append(f"{view['name']}: {SILENT}")
        elif view["store"] not in ("up", "none"):
            found.append(f"{view['name']}: the store is {view['store']}")
        for other in view["edges"]:
            if other["state"] in ("behind", "refused"):
                why = f": {other['refused']}" if other["refused"] else ""
                found.append(f"{view['name']}: {other['name']} is {other['state']}{why}")
    for part in sorted({part for parts in known.values() for part in parts} - {UNPROMISED}):
        said = {url: parts.get(part) for url, parts in known.items()}
        if len({json.dumps(value) for value in said.values()}) > 1:
            counts = ", ".join(
                f"{views[url]['name'] or url} has {value['count'] if value else 'none'}" for url, value in said.items()
            )
            found.append(f"{part}: edges differ: {counts}")
    return found


def _edges_table(views: Views) -> Table:
    table = Table("edge", "store", "told", "follows", title="Edges")
    for view in views.values():
        follows = ", ".join(
            f"{other['name']} {other['state']} (lag {other['lag']}, {other['in_flight']} in flight)"
            for other in view["edges"]
        )
        table.add_row(view["name"], view["store"], str(view["batches"]), follows or "nobody")
    return table


def _known_table(views: Views, known: dict[str, dict[str, Any]]) -> Table:
    table = Table("what", *(view["name"] or url for url, view in views.items()), title="Known: count and digest")
    for part in sorted({part for parts in known.values() for part in parts}):
        cells = [known.get(url, {}).get(part) for url in views]
        table.add_row(part, *(f"{cell['count']} {cell['digest'][:8]}" if cell else "-" for cell in cells))
    return table


def _client() -> httpx.Client:
    token = admin_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False, verify=trusting())


def _get(client: httpx.Client, url: str) -> Any:
    try:
        answer = client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StartError(f"--admin: {url}: no answer: {error}") from None
    if answer.status_code != 200:
        raise StartError(f"--admin: {url}: answered {answer.status_code}: {answer.text[:200]}")
    return answer.json()
