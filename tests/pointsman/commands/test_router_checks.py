"""Checks of `pointsman doctor` that ask the router."""

from __future__ import annotations

import socket
import time
from typing import Any

from shown_things import DOWN, replica
from telling_admin import Told, problem, telling_admin

from pointsman.admin_client import AdminClient
from pointsman.admin_place import Place
from pointsman.commands.finding import Finding
from pointsman.commands.router_checks import TRIED_MAX, reach, router_findings, settings_of
from pointsman.router.process.version import product_version

WELL: dict[str, Any] = {
    "GET /livez": Told(b"ok"),
    "GET /openapi.json": {"info": {"version": product_version()}},
    "GET /v1/whoami": {"name": "ops", "roles": ["operate", "read"]},
    "GET /readyz": Told(b"ok"),
    "GET /v1/edges": {"store": "none", "edges": []},
    "GET /v1/replicas": {"replicas": [replica("a"), replica("b")]},
}


def findings(others: dict[str, Any] | None = None) -> dict[str, Finding]:
    """What is found where some answers are others, by subject."""
    with telling_admin(WELL | (others or {})) as admin, AdminClient(Place(admin.url)) as client:
        return {found.subject: found for found in router_findings(client, wall=time.time)}


def test_a_router_that_is_well_has_no_fault() -> None:
    """Each thing in a line of its own."""
    found = findings()
    assert list(found) == ["admin API", "clock of the router", "version", "token", "readiness", "replicas"]
    assert all(one.is_well for one in found.values()), found


def test_another_version_is_named_on_both_sides() -> None:
    """Commands of one version may ask for what another does not have."""
    found = findings({"GET /openapi.json": {"info": {"version": "9.9"}}})
    assert found["version"].is_well is False and "9.9" in found["version"].said


def test_a_clock_that_is_off_is_found_by_the_answers_date() -> None:
    """To the second, since HTTP has no more."""
    with telling_admin(WELL) as admin, AdminClient(Place(admin.url)) as client:
        found = {one.subject: one for one in router_findings(client, wall=lambda: time.time() + 60)}
    assert found["clock of the router"].is_well is False and "behind" in found["clock of the router"].said


def test_a_token_that_changes_nothing_is_said() -> None:
    """No fault: who looks needs no more."""
    found = findings({"GET /v1/whoami": {"name": "eve", "roles": ["read"]}})
    assert found["token"].is_well is None and "token create" in found["token"].remedy


def test_what_readiness_says_is_wrong() -> None:
    """Line by line, also behind a status of 503."""
    found = findings({"GET /readyz": Told(b"haproxy: not attached\n", 503)})
    assert found["readiness"].is_well is False and found["readiness"].said == "haproxy: not attached"
    degraded = findings({"GET /readyz": Told(b"ok\ndegraded: store: away\n")})
    assert degraded["readiness"].said == "degraded: store: away"


def test_other_edges_are_in_step_or_not() -> None:
    """With why one is refused."""
    edge = {"name": "b", "state": "refused", "refused": "schema 3 is not 2"}
    found = findings({"GET /v1/edges": {"store": "unreachable", "edges": [edge]}})
    assert found["edge"].said == "b is refused: schema 3 is not 2" and found["shared state"].is_well is False
    assert findings({"GET /v1/edges": {"store": "up", "edges": [{"name": "b", "state": "in-step"}]}})["edge"].is_well


def test_a_replica_that_is_out_is_tried_from_here() -> None:
    """Whether the way or the engine is at fault; a drain is no fault."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        down = DOWN | {"id": "x", "url": url}
        found = findings({"GET /v1/replicas": {"replicas": [down, replica("d", "draining")]}})
        assert "can be reached from here" in found["replica x"].said and found["replica x"].is_well is False
        assert found["replica d"].is_well is None and found["replica d"].remedy == "pointsman undrain d"
    assert "cannot be reached from here: Connection refused" in reach(url)


def test_of_many_replicas_that_are_out_some_are_tried() -> None:
    """The rest is counted; none at all is wrong."""
    down = [DOWN | {"id": f"x{at}", "url": "http://127.0.0.1:1"} for at in range(TRIED_MAX + 5)]
    found = findings({"GET /v1/replicas": {"replicas": down}})
    assert found["replicas"].said == "5 more are out"
    assert findings({"GET /v1/replicas": {"replicas": []}})["replicas"].said == "none is registered"


def test_a_router_that_refuses_is_one_fault() -> None:
    """There is nothing more to ask."""
    found = findings({"GET /livez": problem(401, "a valid bearer token is expected")})
    assert list(found) == ["router"] and "POINTSMAN_ADMIN__TOKEN" in found["router"].said


def test_settings_are_those_that_the_router_says() -> None:
    """None from a router that does not."""
    values = {"values": [{"key": "state_file", "value": "/x", "source": "default"}]}
    with telling_admin({"GET /v1/config": values}) as admin, AdminClient(Place(admin.url)) as client:
        assert settings_of(client) == {"state_file": "/x"}
    with telling_admin({}) as admin, AdminClient(Place(admin.url)) as client:
        assert settings_of(client) is None
