"""`pointsman state ...`: what the edges of a fleet know, asked of the edges themselves.

Any edge names the others; each is asked over its admin API. What differs at one moment may be on its way, so `check`
looks several times and reports what differed in all looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pointsman.admin_client import AdminClient, RefusedError
from pointsman.admin_place import Place
from pointsman.errors import StartError

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

Ask = Callable[[str, str], Any]
"""Asks the edge at an admin URL for a path of its API; raises StartError where it does not answer."""


def run_dump(admin: list[str], *, token: str, ca: Path | None, as_json: bool) -> int:
    """Prints who is there, how far each follows the others, and what it knows. Raises StartError."""
    with _asking(token, ca) as ask:
        views = edges_of(ask, admin)
        known = known_by(ask, views)
    if as_json:
        print(json.dumps({"edges": views, "known": known}))
        return 0
    console = Console()
    console.print(_edges_table(views))
    console.print(_known_table(views, known))
    return 0


def run_check(admin: list[str], *, token: str, ca: Path | None, as_json: bool) -> int:
    """0 when all edges are in step and know the same, else 1 and what is wrong. Raises StartError."""
    with _asking(token, ca) as ask:
        looks = []
        for look in range(LOOKS):
            if look:
                time.sleep(BETWEEN_LOOKS_S)
            views = edges_of(ask, admin)
            known = known_by(ask, views)
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


def edges_of(ask: Ask, admin: Iterable[str]) -> Views:
    """Every edge that those named know of, and those. Raises StartError when a named one does not answer."""
    views: Views = {}
    todo = [(Place(url).base_url, True) for url in admin]
    seen: set[str] = set()
    while todo:
        url, named = todo.pop(0)
        try:
            view = ask(url, "/v1/edges")
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


def known_by(ask: Ask, views: Views) -> dict[str, dict[str, Any]]:
    """Counts and digests of all edges that answer."""
    asked = [url for url, view in views.items() if view["store"] != SILENT]
    return {url: ask(url, "/v1/state/digests")["parts"] for url in asked}


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


@contextmanager
def _asking(token: str, ca: Path | None) -> Iterator[Ask]:
    """Asks edges, each over a connection of its own."""
    with ExitStack() as stack:
        clients: dict[str, AdminClient] = {}

        def ask(url: str, path: str) -> Any:
            if url not in clients:
                clients[url] = stack.enter_context(AdminClient(Place(url, token, ca)))
            try:
                return clients[url].get(path).json()
            except RefusedError as refused:
                raise StartError(f"--admin: {url}: {refused}") from None

        yield ask
