"""Checks of `pointsman doctor` that ask the router: whether it answers, as whom, and what it knows to be wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from pointsman.admin_client import AdminClient, Answer, MissingOperationError, RefusedError, UnaskableError
from pointsman.commands.finding import Finding, unknown, well, wrong
from pointsman.commands.settings_checks import check_clock
from pointsman.router.process.version import product_version

CONNECT_S = 1.0

TRIED_MAX = 20
"""Replicas that are out and tried from this machine; the rest is counted."""

NOT_READY = 503
"""Status of `/readyz` whose body names what is missing."""

DATE_EXACT_S = 1.0
"""The header `Date` has whole seconds."""


def router_findings(client: AdminClient, *, wall: Callable[[], float]) -> Iterator[Finding]:
    """All checks of a router. wall: seconds since 1970. After the first that cannot be asked there are no more."""
    try:
        yield from _reachable(client, wall)
        yield from _as_whom(client)
        yield from _readiness(client)
        yield from _edges(client)
        yield from _replicas(client)
    except (UnaskableError, RefusedError) as error:
        yield wrong("router", str(error), "")


def _reachable(client: AdminClient, wall: Callable[[], float]) -> Iterator[Finding]:
    before_s = wall()
    answer = client.get("/livez")
    yield well("admin API", f"{client.url} answers in {1000 * (wall() - before_s):.0f} ms")
    yield from _clock(answer, (before_s + wall()) / 2)
    version, own = client.get("/openapi.json").json()["info"]["version"], product_version()
    if version == own:
        yield well("version", f"router and command are {own}")
    else:
        yield wrong("version", f"the router is {version}, this command {own}", "install one version on both sides")


def _clock(answer: Answer, wall_s: float) -> Iterator[Finding]:
    """The router's clock, in the middle of the second that it named."""
    try:
        router_s = parsedate_to_datetime(answer.date).timestamp() + DATE_EXACT_S / 2
    except (TypeError, ValueError):
        return
    yield check_clock("clock of the router", router_s - wall_s, exact_s=DATE_EXACT_S)


def _as_whom(client: AdminClient) -> Iterator[Finding]:
    try:
        said = client.get("/v1/whoami").json()
    except MissingOperationError:
        return
    roles = ", ".join(said["roles"])
    if "operate" in said["roles"]:
        yield well("token", f"{said['name']} with the roles {roles}")
    else:
        yield unknown("token", f"{said['name']} with the roles {roles}: it changes nothing", "pointsman token create")


def _readiness(client: AdminClient) -> Iterator[Finding]:
    """Lines of `/readyz`, each a fault."""
    lines = client.call("GET", "/readyz", accepted=(NOT_READY,)).body.decode("utf-8", "replace").splitlines()
    troubles = [line for line in lines if line and line != "ok"]
    for line in troubles:
        yield wrong("readiness", line, "pointsman status; the router's log")
    if not troubles:
        yield well("readiness", "ready, nothing is degraded")


def _edges(client: AdminClient) -> Iterator[Finding]:
    view = client.get("/v1/edges").json()
    if view["store"] == "none":
        return
    if view["store"] != "up":
        yield wrong("shared state", f"the store is {view['store']} for the router", "see docs/how-to-share-state.md")
    for edge in view["edges"]:
        if edge["state"] == "in-step":
            yield well("edge", f"{edge['name']} is in step")
        else:
            said = f"{edge['name']} is {edge['state']}" + (f": {edge['refused']}" if edge["refused"] else "")
            yield wrong("edge", said, "pointsman edges; pointsman state check")


def _replicas(client: AdminClient) -> Iterator[Finding]:
    """Whether replicas get requests; those that are out are tried from this machine, too."""
    views = client.get("/v1/replicas").json()["replicas"]
    if not views:
        yield wrong("replicas", "none is registered", "docs/how-to-add-endpoints.md; pointsman up --replicas 4")
        return
    up = [view for view in views if view["state"] == "up"]
    if up:
        yield well("replicas", f"{len(up)} of {len(views)} are up")
    out = [view for view in views if view["state"] not in ("up", "draining")]
    for view in out[:TRIED_MAX]:
        why = view.get("why") or view["state"]
        yield wrong(f"replica {view['id']}", f"{why} {reach(view['url'])}", f"pointsman replicas {view['id']}")
    if len(out) > TRIED_MAX:
        yield wrong("replicas", f"{len(out) - TRIED_MAX} more are out", "pointsman replicas")
    for view in views:
        if view["state"] == "draining":
            yield unknown(f"replica {view['id']}", "draining", f"pointsman undrain {view['id']}")


def reach(url: str) -> str:
    """Whether a replica's port can be reached from this machine, in a sentence."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=CONNECT_S):
            return f"({parts.netloc} can be reached from here)"
    except OSError as error:
        return f"({parts.netloc} cannot be reached from here: {error.strerror or error})"


def settings_of(client: AdminClient) -> Mapping[str, Any] | None:
    """The router's settings by dotted key, as it says them; None where it does not."""
    try:
        values = client.get("/v1/config").json()["values"]
    except (UnaskableError, RefusedError):
        return None
    return {value["key"]: value["value"] for value in values}
