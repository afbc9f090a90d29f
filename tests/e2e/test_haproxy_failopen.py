"""The edge without its router, gone, hung or undecided: requests are served, sessions stay together, and it is said."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from haproxy_fixture import Edge, Received, read_response, running_edge, until

from pointsman.haproxy.config import Timeouts

pytestmark = pytest.mark.e2e

both_lookups = pytest.mark.parametrize("lookup", ["spoe", "lua"])


async def homes_of(edge: Edge, sessions: int, rounds: int = 3) -> dict[int, Counter[str]]:
    """Which replicas served each session."""
    homes: dict[int, Counter[str]] = defaultdict(Counter)
    for _ in range(rounds):
        for number in range(sessions):
            answer = await edge.ask(headers=[("x-session-id", f"session-{number}")])
            assert (answer.status, answer.reason) == (200, "fail-open")
            homes[number][answer.replica] += 1
    return homes


@both_lookups
async def test_a_dead_router(tmp_path: Path, lookup: str) -> None:
    """From the first request on: served, marked, and each session on one replica, all replicas used."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        assert (await edge.ask()).reason == "hash"
        await edge.router.stop()
        homes = await homes_of(edge, 30)
        # With next to no load the bound is one request, and the one before may just be ending: a few spill.
        assert sum(max(replicas.values()) for replicas in homes.values()) >= 80
        # 30 sessions on 3 replicas: a ring of 256 points each leaves none out.
        assert set.union(*(set(replicas) for replicas in homes.values())) == {"r1", "r2", "r3"}


@both_lookups
async def test_a_router_that_comes_back_is_asked_again(tmp_path: Path, lookup: str) -> None:
    """The health check finds it; no reload, no command. The log ring finds it too, after two lines lost on the way."""
    async with running_edge(tmp_path, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        await edge.router.stop()
        edge.router.ring_connected.clear()
        await edge.router_is("DOWN")
        await edge.router.start()
        await edge.router_is("UP")

        async def ring_is_back() -> bool:
            # HAProxy learns that a ring's peer has left by writing to it: two lines in 2.8, which are lost.
            await edge.ask()
            return edge.router.ring_connected.is_set()

        await until(ring_is_back)
        answer = await edge.ask()
        assert answer.reason == "hash"
        assert (await edge.router.line(answer.id))["srv"] == "r1"


@both_lookups
async def test_a_hung_router(tmp_path: Path, lookup: str) -> None:
    """It takes questions and answers none: each is given up after the processing time."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup, timeouts=Timeouts()) as edge:
        edge.router.answer = lambda _: None
        await homes_of(edge, 5)
        assert edge.router.asked


async def test_prompts_without_a_session_keep_together(tmp_path: Path) -> None:
    """The head of the body stands for the session: the same prompt goes to the same replica, others elsewhere."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        homes: dict[int, Counter[str]] = defaultdict(Counter)
        for turn in range(3):
            for number in range(30):
                head = b'{"messages":["prompt %d' % number + b"x" * 2048
                answer = await edge.ask(body=head + b"turn %d" % turn)
                assert answer.reason == "fail-open"
                homes[number][answer.replica] += 1
        assert sum(max(replicas.values()) for replicas in homes.values()) >= 80
        assert set.union(*(set(replicas) for replicas in homes.values())) == {"r1", "r2", "r3"}


async def test_a_body_that_is_still_coming_is_waited_for(tmp_path: Path) -> None:
    """The head decides, so it must be there."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        body = b'{"messages":["' + b"x" * 3000
        whole = (await edge.ask(body=body)).replica
        await edge.idle()
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        for at in range(0, len(body), 1000):
            writer.write(body[at : at + 1000])
            await writer.drain()
        assert (await read_response(reader)).replica == whole
        writer.close()


async def test_no_opinion_keeps_the_routers_reason(tmp_path: Path) -> None:
    """An answer without a choice is not a failure, so it is not called one."""
    async with running_edge(tmp_path) as edge:
        edge.router.answer = lambda _: {"reason": "no-candidates"}
        answers = [await edge.ask(headers=[("x-session-id", "s")]) for _ in range(3)]
        assert {(answer.status, answer.reason) for answer in answers} == {(200, "no-candidates")}


async def test_load_is_bounded(tmp_path: Path) -> None:
    """One busy session spills over instead of burying its replica."""
    release = asyncio.Event()
    busy: Counter[str] = Counter()

    async with running_edge(tmp_path, replicas=3, hash_balance_percent=150) as edge:
        await edge.router.stop()
        arrived = asyncio.Semaphore(0)

        def hold(name: str):
            async def held(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
                busy[name] += 1
                arrived.release()
                await release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                return True

            return held

        for name, replica in edge.replicas.items():
            replica.on_request = hold(name)
        asks = []
        for _ in range(30):  # one after the other, so that each choice sees the load of those before it
            asks.append(asyncio.create_task(edge.ask(headers=[("x-session-id", "one")])))
            async with asyncio.timeout(10):
                await arrived.acquire()
        # 30 on 3 replicas, at most 1.5 times the average on one: 15, and one more for the request being placed.
        assert max(busy.values()) <= 16, busy
        assert len(busy) >= 2
        release.set()
        await asyncio.gather(*asks)


@asynccontextmanager
async def two_models(tmp_path: Path, *, lookup: str = "spoe") -> AsyncIterator[Edge]:
    """r1 and r2 serve `a`, r3 and r4 serve `b`; the router has told HAProxy so, and is gone."""
    async with running_edge(tmp_path, replicas=4, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        names = dict(zip(edge.replicas, "aabb", strict=True))
        await edge.reconciler.step(
            {name: replica.desired._replace(names=frozenset(names[name])) for name, replica in edge.replicas.items()}
        )
        await edge.router.stop()
        await edge.router_is("DOWN")
        yield edge


def asking(model: str, number: int = 0) -> bytes:
    """A body whose prompt differs by number."""
    return b'{"messages":[{"role":"user","content":"%d"}],"model":"%s"}' % (number, model.encode())


@both_lookups
async def test_a_request_stays_with_its_model(tmp_path: Path, lookup: str) -> None:
    """Wherever the name stands in the body; sessions and prompts are spread over the servers of that model."""
    async with two_models(tmp_path, lookup=lookup) as edge:
        for model, right in (("a", {"r1", "r2"}), ("b", {"r3", "r4"})):
            answers = [await edge.ask(body=asking(model, number)) for number in range(20)]
            answers += [await edge.ask(body=asking(model), headers=[("x-session-id", f"s{n}")]) for n in range(20)]
            assert {(answer.status, answer.reason) for answer in answers} == {(200, "fail-open")}
            assert {answer.replica for answer in answers} == right


async def test_a_replica_of_the_model_that_just_died_is_made_up_for_by_the_other(tmp_path: Path) -> None:
    """The redispatch keeps to the model too."""
    async with two_models(tmp_path) as edge:
        await edge.replicas["r3"].stop()
        answers = [await edge.ask(body=asking("b", number)) for number in range(20)]
        assert {(answer.status, answer.replica) for answer in answers} == {(200, "r4")}


async def test_a_model_whose_replicas_are_down_is_refused_clearly(tmp_path: Path) -> None:
    """503 with a time to come back, though others are up; a name that nobody has is not found."""
    async with two_models(tmp_path) as edge:
        for name in ("r3", "r4"):
            await edge.replicas[name].stop()
        await edge.servers_are("down", "r3", "r4")
        refused = await edge.ask(body=asking("b"))
        assert (refused.status, refused.headers["retry-after"], refused.reason) == (503, "1", "fail-open")
        unknown = await edge.ask(body=asking("c"))
        assert (unknown.status, unknown.json()["error"]["message"]) == (404, "The model `c` does not exist.")
        assert (await edge.ask(body=asking("a"))).status == 200


async def test_who_was_left_and_serves_another_model_is_not_believed(tmp_path: Path) -> None:
    """Both choices refuse the connection before any check noticed: the 404 of a third is a 503."""
    async with two_models(tmp_path) as edge:

        async def unknown(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.write(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")
            return True

        for name in ("r1", "r2"):
            edge.replicas[name].on_request = unknown
        assert (await edge.ask(body=asking("a"))).status == 404, "its own servers may say so"
        for name in ("r3", "r4"):
            await edge.replicas[name].stop()
        refused = await edge.ask(body=asking("b"))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")


LONG = b'{"messages":["' + b"x" * 200_000 + b'"],"model":"%s"}'
"""Longer than the part of a body that can be looked at, and `model` behind it."""


@both_lookups
async def test_a_model_that_cannot_be_seen_is_asked_for(tmp_path: Path, lookup: str) -> None:
    """Behind a long prompt, or missing: no server of any model is tried, and one sentence says what to do; the header
    that it names decides."""
    async with two_models(tmp_path, lookup=lookup) as edge:
        await edge.api.set_variable("proc.pm.body", 9)
        for body in (LONG % b"b", b'{"messages":[]}'):
            refused = await edge.ask(body=body)
            assert (refused.status, refused.reason) == (400, "no-model")
            error = refused.json()["error"]
            assert (error["param"], error["type"]) == ("model", "BadRequestError")
            assert error["message"].endswith("send `model` in front of the prompt, or name it in the header x-model.")
            assert not any(replica.received for replica in edge.replicas.values())
        for model, right in (("a", {"r1", "r2"}), ("b", {"r3", "r4"})):
            answers = [
                await edge.ask(body=LONG % b"c", headers=[("x-model", model), ("x-session-id", f"s{number}")])
                for number in range(10)
            ]
            assert {answer.status for answer in answers} == {200}
            assert {answer.replica for answer in answers} == right
        assert (await edge.ask(body=LONG % b"b", headers=[("x-model", "c")])).status == 404


async def test_what_generates_nothing_stays_with_its_model_too(tmp_path: Path) -> None:
    """Embeddings, and the field of a form; what names no model goes anywhere."""
    async with two_models(tmp_path) as edge:
        await edge.api.set_variable("proc.pm.body", 9)
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nb\r\n--x--\r\n'
        for target, body in (("/v1/embeddings", asking("b")), ("/v1/audio/transcriptions", form)):
            answers = [await edge.ask(target=target, body=body) for _ in range(10)]
            assert {answer.status for answer in answers} == {200}
            assert {answer.replica for answer in answers} <= {"r3", "r4"}
        assert (await edge.ask(target="/sleep", body=b"")).status == 200
        assert (await edge.ask(target="/v1/embeddings", body=LONG % b"b")).status == 400


async def test_one_model_and_its_adapters(tmp_path: Path) -> None:
    """Who names none wants the model itself, which all have; who wants an adapter must say so where it can be seen."""
    async with running_edge(tmp_path, replicas=2) as edge:
        first, second = edge.replicas.values()
        await edge.reconciler.step(
            {
                "r1": first.desired._replace(names=frozenset({"a", "sql"}), model="a"),
                "r2": second.desired._replace(names=frozenset({"a", "math"}), model="a"),
            }
        )
        await edge.router.stop()
        await edge.router_is("DOWN")
        answers = [await edge.ask(headers=[("x-session-id", f"s{number}")]) for number in range(20)]
        assert {(answer.status, answer.reason) for answer in answers} == {(200, "fail-open")}
        assert {answer.replica for answer in answers} == {"r1", "r2"}
        assert (await edge.ask(body=LONG % b"sql")).status == 400


@pytest.mark.parametrize("isolated", [True, False])
async def test_tenants_with_one_session_id(tmp_path: Path, isolated: bool) -> None:
    """Kept apart, their session ids are hashed apart; else the same id is one session."""
    keys = tmp_path / "keys.map"
    keys.write_text("".join(f"{hashlib.sha256(b'sk-%d' % n).hexdigest()} tenant-{n}\n" for n in range(20)))
    shown = {"api_keys_map": str(keys), "expose_decision": "always"}
    async with running_edge(tmp_path, replicas=4, isolate_tenants=isolated, **shown) as edge:
        await edge.router.stop()
        homes: Counter[str] = Counter()
        for number in range(20):
            answer = await edge.ask(headers=[("x-api-key", f"sk-{number}"), ("x-session-id", "the same")])
            assert (answer.status, answer.reason) == (200, "fail-open")
            homes[answer.replica] += 1
            await edge.idle()
        assert len(homes) == (4 if isolated else 1), homes


async def test_a_server_that_nobody_named_takes_what_nobody_else_serves(tmp_path: Path) -> None:
    """As it does while the router is there."""
    async with running_edge(tmp_path, replicas=2) as edge:
        first, second = edge.replicas.values()
        await edge.reconciler.step({"r1": first.desired._replace(names=frozenset("a")), "r2": second.desired})
        await edge.router.stop()
        await edge.router_is("DOWN")
        assert {(await edge.ask(body=asking("c", number))).replica for number in range(10)} == {"r2"}
        assert (await edge.ask(body=LONG % b"a")).replica == "r2"
        assert {(await edge.ask(body=asking("a", number))).replica for number in range(20)} == {"r1", "r2"}


async def test_all_replicas_dead_is_said_at_once(tmp_path: Path) -> None:
    """Router or not: 503 in JSON, and a line."""
    async with running_edge(tmp_path) as edge:
        for replica in edge.replicas.values():
            await replica.stop()
        await edge.servers_are("down", "r1", "r2")
        answer = await edge.ask()
        assert (answer.status, answer.reason) == (503, "fail-open")
        assert (await edge.router.line(answer.id))["srv"] == "<NOSRV>"


@pytest.mark.parametrize("replay", [True, False])
async def test_a_request_dropped_without_an_answer(tmp_path: Path, replay: bool) -> None:
    """Sent again to another replica when replay is on, however it arrives; else the client learns of it."""
    async with running_edge(tmp_path, replay=replay) as edge:
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}

        async def drop(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.transport.abort()
            return False

        edge.replicas["r2"].on_request = drop
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        await writer.drain()
        for _ in range(9):
            writer.write(b"x" * 1000)
            await writer.drain()
        answer = await read_response(reader)
        writer.close()
        assert (answer.status, answer.replica) == ((200, "r1") if replay else (502, ""))
        line = await edge.router.line(answer.id)
        assert (line["srv"], line["rc"][0]) == (("r1", "+") if replay else ("r2", "0"))


def answering(status: int) -> Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]:
    """A replica that answers everything with one status, at once."""

    async def answer(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\n{}" % status)
        await writer.drain()
        return True

    return answer


@both_lookups
async def test_a_full_replica_is_made_up_for_by_the_second_choice(tmp_path: Path, lookup: str) -> None:
    """503 of the first choice: the second answers, and the line says that the request was sent again."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r2", "second": "r3", "reason": "hash"}
        edge.replicas["r2"].on_request = answering(503)
        answer = await edge.ask(body=b'{"prompt": "x"}')
        assert (answer.status, answer.replica) == (200, "r3")
        line = await edge.router.line(answer.id)
        assert (line["first"], line["srv"], line["rc"][0]) == ("r2", "r3", "+")


@both_lookups
async def test_a_request_that_must_not_be_sent_again_is_not(tmp_path: Path, lookup: str) -> None:
    """The retry budget is used up: the client gets the replica's own 503, and no other replica sees the request."""
    async with running_edge(tmp_path, replicas=3, lookup=lookup) as edge:
        edge.router.answer = lambda _: {"first": "r2", "second": "r3", "reason": "hash", "once": 1}
        edge.replicas["r2"].on_request = answering(503)
        answer = await edge.ask(body=b'{"prompt": "x"}')
        assert (answer.status, answer.replica, answer.body) == (503, "r2", b"{}")
        assert not edge.replicas["r3"].received


async def test_without_a_router_a_failing_replica_is_passed_over(tmp_path: Path) -> None:
    """Its sessions fail for about a second; then others serve them, while its health check stays green."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        edge.replicas["r1"].on_request = answering(500)

        async def passed_over() -> bool:
            answers = [await edge.ask(headers=[("x-session-id", f"session-{number}")]) for number in range(40)]
            return all((answer.status, answer.reason) == (200, "fail-open") for answer in answers)

        await until(passed_over)
        assert edge.replicas["r1"].received


async def test_without_a_router_all_failing_replicas_are_asked(tmp_path: Path) -> None:
    """Clients see the replicas' own errors, never one of HAProxy's, and every replica gets its part."""
    async with running_edge(tmp_path, replicas=3) as edge:
        await edge.router.stop()
        for replica in edge.replicas.values():
            replica.on_request = answering(500)
        for _ in range(5):
            answers = [await edge.ask(headers=[("x-session-id", f"session-{number}")]) for number in range(20)]
            assert {answer.status for answer in answers} == {500}
            await asyncio.sleep(0.3)
        assert all(replica.received for replica in edge.replicas.values())


async def test_copies_to_send_again_are_bounded_in_memory(tmp_path: Path) -> None:
    """With so many requests under way that their copies fill `replay_memory_mb`, one more is not sent again."""
    async with running_edge(tmp_path, replay=True, replay_memory_mb=1) as edge:
        within_limit = (1 << 20) // 131072  # buffers of the default window
        ended = asyncio.Event()

        async def answer_late(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await ended.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return True

        async def drop(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.transport.abort()
            return False

        r1, r2 = edge.replicas["r1"], edge.replicas["r2"]
        edge.router.answer = lambda _: {"first": "r1", "reason": "hash"}
        r1.on_request = answer_late
        waiting = [asyncio.create_task(edge.ask()) for _ in range(within_limit)]

        async def all_wait() -> bool:
            return len(r1.received) == within_limit

        await until(all_wait)
        edge.router.answer = lambda _: {"first": "r2", "reason": "hash"}
        r2.on_request = drop
        assert (await edge.ask()).status == 502
        ended.set()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
        await edge.idle()
        assert ((answer := await edge.ask()).status, answer.replica) == (200, "r1")
