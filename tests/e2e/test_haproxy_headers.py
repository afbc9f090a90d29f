"""Headers at the edge: which of a client's reach nobody, and which come back to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from haproxy_fixture import running_edge

from pointsman.haproxy.config import DEFAULT_SESSION_HEADERS

pytestmark = pytest.mark.e2e


async def test_internal_names_are_the_edges_own(tmp_path: Path) -> None:
    """What a client calls itself x-pointsman-anything or x-request-id reaches no replica."""
    async with running_edge(tmp_path, replicas=1) as edge:
        spoofed = [
            ("X-Pointsman-First", "r9"),
            ("x-pointsman-", "x"),
            ("x-request-id", "mine"),
            ("X-Request-ID", "mine2"),
        ]
        answer = await edge.ask(headers=spoofed)
        (got,) = edge.replicas["r1"].received
        assert not [name for name, _ in got.headers if name.startswith("x-pointsman")]
        assert [value for name, value in got.headers if name == "x-request-id"] == [answer.id]
        assert answer.id not in ("mine", "mine2")


async def test_a_client_gets_its_own_well_formed_request_id_back(tmp_path: Path) -> None:
    """The edge's own stands beside it, and the line of the request's end names both."""
    async with running_edge(tmp_path, replicas=1) as edge:
        answer = await edge.ask(headers=[("x-request-id", "trace-7f:3/a")])
        assert answer.headers["x-request-id"] == "trace-7f:3/a" != answer.id
        assert (await edge.router.line(answer.id))["cid"] == "trace-7f:3/a"
        for unfit in ('quote"', "two words", "x" * 129, "line\\nbreak", ""):
            answer = await edge.ask(headers=[("x-request-id", unfit)])
            assert answer.headers["x-request-id"] == answer.id, unfit
            assert (await edge.router.line(answer.id))["cid"] == "-"


async def test_the_first_session_header_present_wins(tmp_path: Path) -> None:
    """In the documented order; an empty value counts as absent."""
    async with running_edge(tmp_path, replicas=1) as edge:
        for header in DEFAULT_SESSION_HEADERS:
            await edge.ask(headers=[(header, f"by {header}")])
            assert edge.router.asked[-1]["session"] == f"by {header}".encode()
        await edge.ask(headers=[(header, header) for header in reversed(DEFAULT_SESSION_HEADERS)])
        assert edge.router.asked[-1]["session"] == DEFAULT_SESSION_HEADERS[0].encode()
        await edge.ask(headers=[(DEFAULT_SESSION_HEADERS[0], ""), (DEFAULT_SESSION_HEADERS[1], "second")])
        assert edge.router.asked[-1]["session"] == b"second"
        await edge.ask()
        assert edge.router.asked[-1]["session"] is None
