"""`pointsman edges`: this edge and the others."""

from __future__ import annotations

from typing import Any

from drawn import assert_fits, drawn, pointsman
from telling_admin import telling_admin

from pointsman.commands.edges import edges_shown


def other(name: str, **about: Any) -> dict[str, Any]:
    return {
        "edge": name,
        "name": name,
        "admin_url": f"http://{name}:8001",
        "state": "in-step",
        "heard_s": 0.4,
        "position": 12,
        "lag": 0,
        "in_flight": 20,
        "holds": 4,
        "refused": "",
    } | about


ALONE = {"edge": "", "name": "", "batches": 0, "store": "none", "in_step": True, "edges": []}
SHARING = {"edge": "a", "name": "a", "batches": 3, "store": "up", "in_step": True, "edges": [other("b")]}


def test_an_edge_that_is_alone_says_so() -> None:
    """And where to read on."""
    assert "docs/how-to-share-state.md" in drawn(edges_shown(ALONE))


def test_each_other_edge_is_a_row_and_a_refusal_stands_below() -> None:
    """With how far this one follows it."""
    refused = other("edge-of-an-earlier-version-in-frankfurt", state="refused", refused="schema 3 is not 2", lag=12)
    text = drawn(edges_shown(SHARING | {"in_step": False, "edges": [other("b"), refused]}))
    assert_fits(text)
    first, head, *rows = text.splitlines()
    assert first == "a  store up  does not follow all others"
    assert head.split() == ["edge", "state", "heard", "lag", "in", "flight", "holds", "admin"]
    assert rows[0].split() == ["b", "in-step", "0", "s", "ago", "0", "20", "4", "http://b:8001"]
    assert rows[2] == "! edge-of-an-earlier-version-in-frankfurt: schema 3 is not 2"


def test_the_exit_code_says_whether_all_are_followed() -> None:
    """Also a store that does not answer is not well."""
    for view, code in ((ALONE, 0), (SHARING, 0), (SHARING | {"in_step": False}, 1), (SHARING | {"store": "away"}, 1)):
        with telling_admin({"GET /v1/edges": view}) as admin:
            assert pointsman("edges", "--admin", admin.url).exit_code == code
            assert pointsman("edges", "--json", "--admin", admin.url).exit_code == code
