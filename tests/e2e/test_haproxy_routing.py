"""What the real HAProxy does with requests while router and replicas are well."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from haproxy_fixture import Received, read_response, running_edge, until
from held_ports import pick_ports

from pointsman.haproxy import places
from pointsman.haproxy.config import DEFAULT_GENERATION_PATHS, Bind

pytestmark = pytest.mark.e2e

FIRST_R2 = {"first": "r2", "second": "r1", "reason": "hash"}


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_the_routers_first_choice_serves(tmp_path: Path, lookup: str) -> None:
    """The router is told what the brief of a lookup has; its choice and its reason come back to the client."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: dict(FIRST_R2)
        answer = await edge.ask(body=b'{"model":"m"}', headers=[("x-session-id", "s 1&=%")])
        assert (answer.status, answer.replica, answer.reason) == (200, "r2", "hash")
        (asked,) = edge.router.asked
        text = {key: value.decode() if isinstance(value, bytes) else value for key, value in asked.items()}
        assert text.pop("tenant", None) is None
        assert text == {"id": answer.id, "path": "/v1/chat/completions", "session": "s 1&=%", "size": 13, "seen": 13}
        line = await edge.router.line(answer.id)
        expected = {"srv": "r2", "first": "r2", "reason": "hash", "st": 200, "rc": "0", "ts": "--", "routed": "1"}
        assert {key: line[key] for key in expected} == expected
        assert line.keys() == {"ev", "id", "pid", "tw", "tc", "tr", "ta", "ttft", "bytes", "cid", "sse", *expected}
        assert line["ttft"] == "-"


@pytest.mark.parametrize("path", DEFAULT_GENERATION_PATHS)
async def test_generation_paths_are_routed_by_post_alone(tmp_path: Path, path: str) -> None:
    """With or without a query; another method or a longer path is not asked for."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: dict(FIRST_R2)
        assert (await edge.ask(target=path)).reason == "hash"
        assert (await edge.ask(target=f"{path}?x=1")).reason == "hash"
        for method, target in (("GET", path), ("POST", f"{path}/more"), ("POST", "/v1/embeddings")):
            answer = await edge.ask(method, target, b"")
            assert (answer.status, answer.reason) == (200, "")
            assert (await edge.router.line(answer.id))["routed"] == "-"
        assert len(edge.router.asked) == 2


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        pytest.param("GET", "/v1/models?limit=%20a+b&x=%2F&x=/", b"", id="query and escapes"),
        pytest.param("POST", "/v1/chat/completions", bytes(range(256)) * 3, id="any bytes in a body"),
        pytest.param("POST", "/v1/files//x/../y/./z;p=1", b"x" * 700_000, id="odd path, large body"),
        pytest.param("PUT", "/~user/@a:b,c!$&'()*+=", b"{}", id="all path characters"),
        pytest.param("DELETE", "/v1/responses/resp_1", b"", id="DELETE"),
        pytest.param("PATCH", "/sleep?level=1", b"\r\n\r\n", id="PATCH"),
        pytest.param("OPTIONS", "*", b"", id="OPTIONS"),
        pytest.param("BREW", "/pot", b"coffee", id="a method of its own"),
    ],
)
async def test_requests_pass_unchanged(tmp_path: Path, method: str, target: str, body: bytes) -> None:
    """Method, target, body and header values reach the replica byte for byte."""
    headers = [
        ("authorization", "Bearer sk-ä"),
        ("x-odd", "a,b;c=\"d\" 'e' \\ %41 é"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("x_under_score", "kept"),
        ("x-empty", ""),
    ]
    async with running_edge(tmp_path, replicas=1) as edge:
        answer = await edge.ask(method, target, body, headers)
        assert answer.status == 200
        (got,) = edge.replicas["r1"].received
        assert (got.method, got.target, got.body) == (method, target, body)
        assert [pair for pair in got.headers if pair in headers] == headers


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_the_override_header_reaches_the_router_only_when_enabled(tmp_path: Path, lookup: str) -> None:
    """And never the replica."""
    header = ("x-pointsman-policy", "random")
    for enabled in (True, False):
        folder = tmp_path / str(enabled)
        folder.mkdir()
        async with running_edge(folder, replicas=1, policy_override=enabled, lookup=lookup) as edge:
            await edge.ask(headers=[header])
            assert edge.router.asked[0].get("policy") in ((b"random", "random") if enabled else (None,))
            assert edge.replicas["r1"].received[0].header("x-pointsman-policy") is None


async def test_a_first_choice_that_is_down_leaves_it_to_the_second(tmp_path: Path) -> None:
    """No connection is tried in vain."""
    async with running_edge(tmp_path, replicas=3) as edge:
        edge.router.answer = lambda _: dict(FIRST_R2)
        await edge.replicas["r2"].stop()
        await edge.servers_are("down", "r2")
        answer = await edge.ask()
        assert (answer.status, answer.replica) == (200, "r1")
        assert (await edge.router.line(answer.id))["rc"] == "0"


async def test_names_haproxy_does_not_know_are_passed_over(tmp_path: Path) -> None:
    """A decision about a replica that is gone is as good as none."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: {"first": "gone", "second": "gone-too", "reason": "hash"}
        assert (await edge.ask()).status == 200


@pytest.mark.parametrize("body_bytes", [2, 900_000])
async def test_a_refused_connection_is_tried_elsewhere(tmp_path: Path, body_bytes: int) -> None:
    """A replica that died a moment ago costs the client nothing, whatever the body's size."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: dict(FIRST_R2)
        await edge.replicas["r2"].stop()
        answer = await edge.ask(body=b"x" * body_bytes)
        assert (answer.status, answer.replica) == (200, "r1")
        assert len(edge.replicas["r1"].received[-1].body) == body_bytes
        assert (await edge.router.line(answer.id))["srv"] == "r1"


@pytest.mark.parametrize("added", [False, True], ids=["configured", "added"])
async def test_the_second_choice_is_where_a_refused_request_goes(tmp_path: Path, added: bool) -> None:
    """Not wherever HAProxy would balance it: the second choice holds the prefix, or serves the model."""
    async with running_edge(tmp_path, replicas=6) as edge:
        names = {name: f"{name}-added" if added else name for name in edge.replicas}
        await edge.reconciler.step(
            {names[name]: one.desired._replace(name=names[name]) for name, one in edge.replicas.items()}
        )
        await edge.replicas["r2"].stop()
        for second in (names[name] for name in ("r1", "r3", "r4", "r5", "r6")):
            edge.router.answer = lambda _, second=second: {"first": names["r2"], "second": second, "reason": "hash"}
            answer = await edge.ask(headers=[("x-session-id", f"for {second}")])
            assert (answer.status, answer.replica) == (200, second)


async def test_everything_else_is_spread_evenly(tmp_path: Path) -> None:
    """Requests nobody is asked about reach all ready servers alike."""
    async with running_edge(tmp_path, replicas=3) as edge:
        served = Counter([(await edge.ask("GET", "/v1/models", b"")).replica for _ in range(150)])
        # A walk round the ring, each server with as many points: 50 each over a whole turn, binomial within one.
        assert all(count > 25 for count in served.values()) and len(served) == 3, served


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_request_whose_model_nothing_tells(tmp_path: Path, lookup: str) -> None:
    """The router's 400 is answered in one sentence, in the shape OpenAI's clients read."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"status": 400, "retry_after": 0, "reason": "no-model"}
        answer = await edge.ask()
        assert (answer.status, answer.reason) == (400, "no-model")
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        line = await edge.router.line(answer.id)
        assert (line["st"], line["srv"]) == (400, "<lua.pm_no_model>")


async def test_a_client_that_is_still_sending_reads_the_sentence(tmp_path: Path) -> None:
    """The rest of its body is taken before it is answered: a connection that closes would hide the answer."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: {"status": 400, "reason": "no-model"}
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        for _ in range(90):
            writer.write(b"x" * 100_000)
            await writer.drain()
        assert (await read_response(reader)).json()["error"]["param"] == "model"
        writer.close()


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_is_answered_by_haproxy(tmp_path: Path, lookup: str, status: int) -> None:
    """The router's status and pause, in the error object clients know; no replica is troubled."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"status": status, "retry_after": 7, "reason": "no-capacity"}
        answer = await edge.ask()
        assert (answer.status, answer.headers["retry-after"], answer.reason) == (status, "7", "no-capacity")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"]["code"] == status
        assert (await edge.router.line(answer.id))["srv"] == "<NOSRV>"
        assert not any(replica.received for replica in edge.replicas.values())


async def test_no_replica_at_all_is_said_in_json(tmp_path: Path) -> None:
    """An edge without servers answers at once, in vLLM's error shape."""
    async with running_edge(tmp_path, replicas=0) as edge:
        for method, target in (("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
            answer = await edge.ask(method, target)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"]["type"] == "Service Unavailable"
            assert (await edge.router.line(answer.id))["st"] == 503


async def test_http2_with_prior_knowledge_and_over_tls(tmp_path: Path) -> None:
    """One plain address takes HTTP/1.1 and h2c; with a certificate, ALPN chooses."""
    certificate = make_certificate(tmp_path)
    plain, tls = pick_ports(2)
    binds = (Bind("127.0.0.1", plain), Bind("127.0.0.1", tls, str(certificate)))
    async with running_edge(tmp_path, replicas=1, binds=binds) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        for http1, http2, url, version in (
            (True, False, f"http://127.0.0.1:{plain}", "HTTP/1.1"),
            (False, True, f"http://127.0.0.1:{plain}", "HTTP/2"),
            (True, False, f"https://127.0.0.1:{tls}", "HTTP/1.1"),
            (True, True, f"https://127.0.0.1:{tls}", "HTTP/2"),
        ):
            async with httpx.AsyncClient(http1=http1, http2=http2, verify=False) as client:
                answer = await client.post(f"{url}/v1/chat/completions", json={"messages": []})
                assert (answer.status_code, answer.http_version) == (200, version)
                assert answer.headers["x-pointsman-reason"] == "hash"


def make_certificate(folder: Path) -> Path:
    """Chain and key in one file, for localhost."""
    parts = [folder / "key.pem", folder / "chain.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", parts[0], "-out", parts[1]], check=True, capture_output=True)
    site = folder / "site.pem"
    site.write_bytes(b"".join(part.read_bytes() for part in parts))
    return site


async def test_tokens_pass_one_by_one(tmp_path: Path) -> None:
    """Each chunk reaches the client before the replica sends the next: nothing waits for company."""
    seen = asyncio.Queue[None]()

    async def one_at_a_time(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await seen.get()
        writer.write(b"0\r\n\r\n")
        return True

    async with running_edge(tmp_path, replicas=1, first_token=True) as edge:
        edge.replicas["r1"].on_request = one_at_a_time
        async with httpx.AsyncClient() as client, asyncio.timeout(20):
            url = f"http://127.0.0.1:{edge.port}/v1/chat/completions"
            async with client.stream("POST", url, json={"stream": True}) as answer:
                events = []
                async for chunk in answer.aiter_raw():
                    events.append(chunk)
                    seen.put_nowait(None)
            assert b"".join(events) == b"".join(b"data: %d\n\n" % number for number in range(20))
            first = await edge.router.line(answer.headers["x-request-id"], "first")
            end = await edge.router.line(answer.headers["x-request-id"])
        assert edge.router.lines.index(first) < edge.router.lines.index(end)
        assert first.keys() == {"ev", "id"}
        assert end["ttft"].isdigit()


async def test_an_answer_that_comes_whole_tells_no_first_token(tmp_path: Path) -> None:
    """All of its decoding lies before its first byte: as the time of a prefill that would be wrong."""
    async with running_edge(tmp_path, replicas=1, first_token=True) as edge:
        async with httpx.AsyncClient() as client, asyncio.timeout(20):
            url = f"http://127.0.0.1:{edge.port}/v1/chat/completions"
            answer = await client.post(url, json={"stream": False})
            end = await edge.router.line(answer.headers["x-request-id"])
        assert answer.status_code == 200
        assert end["ttft"] == "-"
        assert not [line for line in edge.router.lines if line["ev"] == "first"]


@pytest.mark.parametrize("when", ["before the answer", "during the answer"])
async def test_a_client_that_leaves_ends_the_generation(tmp_path: Path, when: str) -> None:
    """The replica sees its connection close, and the log line says who left."""
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def until_closed(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if when == "during the answer":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        arrived.set()
        with suppress(ConnectionError):  # HAProxy leaves with a reset or with an end
            await reader.read()
        closed.set()
        return False

    async with running_edge(tmp_path, replicas=1) as edge:
        edge.replicas["r1"].on_request = until_closed
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        async with asyncio.timeout(10):
            await arrived.wait()
            if when == "during the answer":
                await reader.readuntil(b"1\r\nx\r\n")
            writer.close()
            await closed.wait()
            line = await edge.router.line(edge.replicas["r1"].received[0].header("x-request-id") or "")
        assert line["ts"] == ("CD" if when == "during the answer" else "CH")
        assert line["srv"] == "r1"


async def test_connections_to_replicas_are_kept(tmp_path: Path) -> None:
    """A hundred clients after one another share the connections there are."""
    async with running_edge(tmp_path, replicas=1, threads=1) as edge:
        for _ in range(100):
            assert (await edge.ask()).status == 200
        assert edge.replicas["r1"].connections <= 2


async def test_clients_keep_their_connection(tmp_path: Path) -> None:
    """Answers of every kind leave a client's connection usable."""
    async with running_edge(tmp_path, replicas=1) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        for target in ("/v1/chat/completions", "/v1/models", "/v1/chat/completions"):
            writer.write(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            assert (await read_response(reader)).status == 200
        writer.close()


async def test_api_keys_name_the_tenant(tmp_path: Path) -> None:
    """Known by their hash, in either header, and gone before the replica; without one, 401 in JSON."""
    keys = tmp_path / "keys.map"
    keys.write_text(f"# comment\n{hashlib.sha256(b'sk-1').hexdigest()} acme\n")
    async with running_edge(tmp_path, replicas=1, api_keys_map=str(keys)) as edge:
        for header in (("Authorization", "Bearer sk-1"), ("x-api-key", "sk-1")):
            answer = await edge.ask(headers=[header])
            assert answer.status == 200
            assert not [name for name in answer.headers if name.startswith("x-pointsman-")], "that is for operators"
            assert edge.router.asked[-1]["tenant"] == b"acme"
            assert edge.replicas["r1"].received[-1].header(header[0].lower()) is None
        for headers in ([], [("authorization", "Bearer sk-2")], [("authorization", "sk-1")]):
            answer = await edge.ask("GET", "/v1/models", b"", headers)
            assert answer.status == 401
            assert answer.json()["error"]["code"] == 401
        assert len(edge.replicas["r1"].received) == 2


BELOW_NOTHING = (
    "/v1/../sleep",
    "/v1/..",
    "/v1/%2e%2E/sleep",
    "/v1/.%2e/sleep",
    "/v1/..%2fsleep",
    "/v1/..%5Csleep",
    "/v1/..;/sleep",
    "/v1/a%2f../sleep",
    "/v1/\\..\\sleep",
)
"""What a server that resolves dots, or decodes first, takes for a path outside of /v1."""


async def test_the_allow_list_and_the_body_cap(tmp_path: Path) -> None:
    """What is not listed is 404, what is announced too large 413, both in JSON and before any replica."""
    limits = {"allowed_paths": ("/v1/*", "/health"), "max_body_bytes": 1000}
    async with running_edge(tmp_path, replicas=1, **limits) as edge:
        assert (await edge.ask("GET", "/v1/models", b"")).status == 200
        for target in ("/metrics", "/v1", "/sleep", "/health/x", "/V1/models"):
            answer = await edge.ask("GET", target, b"")
            assert (answer.status, answer.json()["error"]["code"]) == (404, 404)
        for target in BELOW_NOTHING:
            assert (await edge.ask("GET", target, b"")).status == 404, target
        for target in ("/v1/models/v1..2", "/v1/a%2eb", "/v1/...", "/v1/models/%2e.x"):
            assert (await edge.ask("GET", target, b"")).status == 200, target
        assert (await edge.ask(body=b"x" * 1000)).status == 200
        answer = await edge.ask(body=b"", headers=[("Content-Length", "1001")])
        assert (answer.status, answer.json()["error"]["code"]) == (413, 413)
        assert len(edge.replicas["r1"].received) == 6


async def test_the_ops_address(tmp_path: Path) -> None:
    """Prometheus metrics, readiness by the servers there are, and nothing else."""
    async with running_edge(tmp_path, replicas=1) as edge:
        assert edge.config.ops is not None
        port = edge.config.ops.port
        metrics = await edge.ask("GET", "/metrics", b"", port=port)
        assert b'haproxy_server_status{proxy="fleet",server="r1",state="UP"} 1' in metrics.body
        assert (await edge.ask("GET", "/readyz", b"", port=port)).status == 200
        assert (await edge.ask("GET", "/v1/models", b"", port=port)).status == 404
        await edge.replicas["r1"].stop()
        await edge.servers_are("down", "r1")
        assert (await edge.ask("GET", "/readyz", b"", port=port)).status == 503


async def test_requests_that_are_no_http_are_refused(tmp_path: Path) -> None:
    """Two lengths, or no HTTP at all: 400, before anybody is asked; the log has them too."""
    async with running_edge(tmp_path, replicas=1) as edge:
        for number, raw in enumerate(
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", b"hi\r\n\r\n")
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(raw)
            assert (await read_response(reader)).status == 400
            writer.close()

            async def logged(count: int = number + 1) -> bool:
                return [line["st"] for line in edge.router.lines] == [400] * count

            await until(logged)
        assert not edge.replicas["r1"].received


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root")
async def test_as_nobody_in_an_empty_root(tmp_path: Path) -> None:
    """Everything that is read is read before; lookups, ring and Lua work from inside."""
    empty = tmp_path / "empty"
    empty.mkdir()
    async with running_edge(
        tmp_path, replicas=1, user="nobody", group="nogroup", chroot=str(empty), body_needs=3
    ) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        answer = await edge.ask()
        assert (answer.status, answer.reason) == (200, "hash")
        assert (await edge.router.line(answer.id))["srv"] == "r1"


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_silent_replica_is_waited_for_as_long_as_the_router_says(tmp_path: Path, lookup: str) -> None:
    """The model's limit on silence is over before the answer begins: 504, and the line says whose fault it was."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash", "silence": 200}

        async def never(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.read()
            return False

        edge.replicas["r2"].on_request = never
        answer = await edge.ask(body=b'{"prompt": "x"}')
        assert answer.status == 504
        line = await edge.router.line(answer.id)
        assert (line["srv"], line["ts"]) == ("r2", "sH")


async def test_a_large_fleet_is_searched_and_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a table of names the choices mean what they mean without: first, second where the first is down or unknown,
    and second again where a connection is refused; also after a reload, whose table is empty at first."""
    monkeypatch.setattr(places, "PLACES_FROM", 3)
    async with running_edge(tmp_path, replicas=4) as edge:
        chosen: dict[str, str] = {}
        edge.router.answer = lambda _: {**chosen, "reason": "hash"}

        async def served(first: str, second: str) -> str:
            chosen.update(first=first, second=second)
            answer = await edge.ask()
            assert answer.status == 200
            return answer.replica

        desired = {name: replica.desired for name, replica in edge.replicas.items()}
        for _ in range(2):
            await edge.reconciler.step(desired)
            assert await edge.api.get_variable("proc.pm.places") == "1"
            for name in edge.replicas:
                assert await served(name, "r1") == name
            assert await served("nobody", "r3") == "r3"
            await edge.process.reload()
            await edge.servers_are("up", *desired)
        await edge.reconciler.step(desired)
        await edge.replicas["r2"].stop()
        assert await served("r2", "r4") == "r4"
        await edge.servers_are("down", "r2")
        assert await served("r2", "r3") == "r3"
        del desired["r4"]
        await edge.reconciler.step(desired)
        await edge.reconciler.step(desired)
        assert await served("r4", "r1") == "r1"
