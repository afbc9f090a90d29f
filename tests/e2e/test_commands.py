"""Commands for operators on a whole edge, as people run them: processes with a terminal, pipes, Ctrl-C, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from drawn import assert_fits
from edge import SHARING, RunningEdge, SharedEdges, until

pytestmark = [pytest.mark.e2e, SHARING, pytest.mark.system]

PROMPT = "You are a helpful assistant of a large company. " * 60


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edges() -> AsyncIterator[SharedEdges]:
    async with AsyncExitStack() as stack:
        yield SharedEdges(stack)


def environment(edge: RunningEdge) -> dict[str, str]:
    return os.environ | {"POINTSMAN_ADMIN_URL": edge.admin_url, "COLUMNS": "100", "TZ": "UTC"}


async def pointsman(edge: RunningEdge, *words: str, stdin: str = "") -> tuple[int, str, str]:
    """A command as a process: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pointsman", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(edge),
    )
    out, err = await process.communicate(stdin.encode())
    return process.returncode or 0, out.decode(), err.decode()


async def said(edge: RunningEdge, *words: str, stdin: str = "") -> str:
    """What a command prints that does its work, in 100 columns."""
    code, out, err = await pointsman(edge, *words, stdin=stdin)
    assert (code, err) == (0, ""), (code, out, err)
    assert_fits(out)
    return out


async def test_a_request_is_followed_from_its_line_to_its_why(edges: SharedEdges) -> None:
    """By the table, by the id of its headers, and by its beginning."""
    async with edges.up(2) as edge:
        answer = await edge.chat(PROMPT, session="why")
        request, served = answer.headers["x-request-id"], answer.headers["x-pointsman-replica"]

        async def ended() -> bool:
            return "outcome" in (await edge.admin.get(f"/v1/decisions/{request}")).json()

        await until(ended)
        listed = await said(edge, "decisions", "--session", "why")
        (line,) = [line for line in listed.splitlines() if request[:8] in line]
        assert served in line and "200" in line and "kv-" in line
        for name in (request, request[:8]):
            shown = await said(edge, "decisions", name)
            assert shown.startswith(request) and f"{served} *" in shown
            assert "predicted" in shown and "came" in shown and "queue" in shown
        explained = await said(edge, "explain", "--request", request)
        assert explained.startswith(request) and "asked again at this moment:" in explained
        assert f"-> {served}  kv-home" in explained


async def test_a_body_is_explained_as_the_edge_would_decide(edges: SharedEdges, tmp_path: Path) -> None:
    """A conversation that is cached stays where it is."""
    async with edges.up(2) as edge:
        served = (await edge.chat(PROMPT, session="body")).headers["x-pointsman-replica"]
        body = {"model": "sim", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
        path = tmp_path / "body.json"
        path.write_text(json.dumps(body, indent=2))
        for words, stdin in ((("-f", str(path)), ""), (("-f", "-"), path.read_text())):
            shown = await said(edge, "explain", *words, "--session", "body", stdin=stdin)
            assert f"-> {served}  kv-home" in shown and f"{served} *" in shown


async def test_a_replica_is_drained_and_brought_back(edges: SharedEdges) -> None:
    """Status stays well, since somebody asked for it."""
    async with edges.up(2) as edge:
        assert "2 up" in await said(edge, "status")
        assert "pointsman undrain sim-2" in await said(edge, "drain", "sim-2")
        assert "1 up, 1 draining" in await said(edge, "status")
        assert "pointsman undrain sim-2" in await said(edge, "replicas", "sim-2")
        assert {(await edge.chat()).headers["x-pointsman-replica"] for _ in range(4)} == {"sim-1"}
        assert await said(edge, "undrain", "sim-2") == "sim-2  up\n"
        assert await said(edge, "reset", "sim-2") == "sim-2  up\n"
        assert "sim-2" not in await said(edge, "replicas", "--state", "draining")
        code, out, err = await pointsman(edge, "drain", "sim-9")
        assert (code, out, err) == (1, "", "pointsman: replica 'sim-9' is not registered\n")


async def test_a_policy_is_tried_put_and_taken_back(edges: SharedEdges, tmp_path: Path) -> None:
    """What `get` printed, `set` takes."""
    async with edges.up(2) as edge:
        before = await said(edge, "policy", "get")
        path = tmp_path / "policy.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(before) | {"tie_ms": 9.0}))
        await edge.chat(PROMPT, session="policy")
        assert "judged" in await said(edge, "policy", "dry-run", str(path))
        assert "the document is valid" in await said(edge, "policy", "set", str(path), "--dry-run")
        assert "tie_ms" in await said(edge, "policy", "set", str(path), "--why", "a test of commands")
        assert "a test of commands" in await said(edge, "policy", "history", "-n", "1")
        assert "tie_ms" in await said(edge, "policy", "diff")
        await said(edge, "policy", "rollback")
        assert yaml.safe_load(await said(edge, "policy", "get")) == yaml.safe_load(before)
        assert "a test of commands" not in await said(edge, "events", "--kind", "replica")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("policy", "get"), "/v1/policy"),
        (("policy", "history", "-n", "1000"), "/v1/policy/revisions?limit=1000"),
        (("pools",), "/v1/pools"),
        (("edges",), "/v1/edges"),
        (("events", "-n", "1000", "--kind", "policy"), "/v1/events?limit=1000&kind=policy"),
    ],
)
async def test_json_is_the_answer_of_the_api_to_the_byte(edges: SharedEdges, words: tuple[str, ...], path: str) -> None:
    """And a line end."""
    async with edges.up(2) as edge:
        assert await said_raw(edge, *words) == (await edge.admin.get(path)).text + "\n"


async def said_raw(edge: RunningEdge, *words: str) -> str:
    code, out, err = await pointsman(edge, *words, "--json")
    assert (code, err) == (0, "")
    return out


async def test_decisions_are_followed_as_they_end_until_ctrl_c(edges: SharedEdges) -> None:
    """Those that match alone, and the last ones before them."""
    async with edges.up(2) as edge:
        await edge.chat(session="tail-a")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "tail", "-n", "1", "--session", "tail-a"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(edge),
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).split()[:2] == [b"at", b"reason"]
            assert b"tail-a" in await process.stdout.readline()
            line = asyncio.create_task(process.stdout.readline())
            while not line.done():  # the stream may begin a moment after its past was shown
                await edge.chat(session="tail-b")
                await edge.chat(session="tail-a")
                await asyncio.wait({line}, timeout=0.5)
            process.send_signal(signal.SIGINT)
            rest, err = await process.communicate()
    assert b"tail-a" in line.result() and b"tail-b" not in rest
    assert (process.returncode, err) == (0, b"")


async def test_top_draws_on_a_terminal_until_q(edges: SharedEdges) -> None:
    """And leaves the terminal as it was."""
    async with edges.up(2) as edge:
        await edge.chat(PROMPT, session="top")
        assert "sim-1" in await said(edge, "top")
        terminal, inside = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "top"),
            stdin=inside,
            stdout=inside,
            stderr=asyncio.subprocess.PIPE,
            env=environment(edge) | {"TERM": "xterm", "LINES": "40"},
        )
        os.close(inside)
        os.set_blocking(terminal, False)
        drawn = b""

        async def pictured() -> bool:
            nonlocal drawn
            with suppress(BlockingIOError):
                drawn += os.read(terminal, 65_536)
            return drawn.count(b"q quits") >= 2

        await until(pictured)
        os.write(terminal, b"q")
        _, err = await process.communicate()
        drawn += os.read(terminal, 65_536)
        os.close(terminal)
    assert (process.returncode, err) == (0, b"")
    assert b"sim-2" in drawn and b"policy kv_cost" in drawn
    assert drawn.rstrip().endswith((b"\x1b[?1049l", b"\x1b[?25h")), drawn[-60:]


async def test_an_installation_is_checked(edges: SharedEdges) -> None:
    """Sockets of the run folder included, as the router says where they are; a stopped replica is a fault."""
    async with edges.up(2) as edge:
        checked = await said(edge, "doctor")
        assert f"✓ admin socket        {edge.run_dir}/admin.sock answers" in checked and "all is well" in checked
        assert "2 of 2 are up" in checked


async def test_sessions_are_found_moved_and_forgotten(edges: SharedEdges) -> None:
    """The next request goes where it was told to."""
    async with edges.up(2) as edge:
        served = (await edge.chat(PROMPT, session="moved")).headers["x-pointsman-replica"]
        other = {"sim-1": "sim-2", "sim-2": "sim-1"}[served]
        assert f"on {served}" in await said(edge, "sessions", "moved")
        assert other in await said(edge, "sessions", "moved", "--move", other)
        assert (await edge.chat(PROMPT, session="moved")).headers["x-pointsman-replica"] == other
        assert "moved" in await said(edge, "sessions", "--replica", other)
        await said(edge, "sessions", "moved", "--forget")
        code, _, err = await pointsman(edge, "sessions", "moved")
        assert code == 1 and "not known" in err
