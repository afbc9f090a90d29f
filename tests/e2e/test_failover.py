"""A whole edge in bad weather: parts are killed, hung, drained and added while clients stream."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest
from edge import RunningEdge, read_stream, running_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.system]

PACED = {"token_interval_ms": 10}
"""A token every 10 ms: streams last long enough to be there when something happens."""


class Load:
    """Clients that stream one answer after another until told to stop; every failure is kept."""

    def __init__(self, edge: RunningEdge, clients: int, *, tokens: int = 20) -> None:
        self._edge = edge
        self._tokens = tokens
        self._stopping = False
        self.served: Counter[str] = Counter()
        self.failures: list[str] = []
        self.finished = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._stream(n)) for n in range(clients)]

    async def _stream(self, number: int) -> None:
        while not self._stopping:
            try:
                replica, count = await read_stream(self._edge, tokens=self._tokens, session=f"s{number}")
                assert count == self._tokens
                self.served[replica] += 1
            except (httpx.HTTPError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            async with self.finished:
                self.finished.notify_all()

    @property
    def total(self) -> int:
        return sum(self.served.values())

    async def more(self, count: int) -> None:
        """Waits until this many further streams have finished well."""
        target = self.total + count
        async with asyncio.timeout(60), self.finished:
            await self.finished.wait_for(lambda: self.total >= target)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def test_a_killed_router_costs_no_client_anything_and_takes_over_again() -> None:
    """SIGKILL under streams: none is cut, none refused; fail-open is said and counted; then decisions are back."""
    async with running_up(2, engine=PACED) as edge:
        load = Load(edge, 24)
        await load.more(24)
        router = edge.router()
        router.kill()

        async def fails_open() -> bool:
            return (await edge.chat(session="probe")).headers["x-pointsman-reason"] == "fail-open"

        await until(fails_open)

        async def decides_again() -> bool:
            return (await edge.chat(session="probe")).headers["x-pointsman-reason"] != "fail-open"

        await until(decides_again)
        assert edge.router().pid != router.pid
        await load.more(48)
        await load.stop()
        assert load.failures == []
        assert await edge.states() == {"sim-1": "up", "sim-2": "up"}

        async def counted() -> bool:
            return (await edge.metrics())["pointsman_fail_open_total"] >= 1

        await until(counted)
        await until(edge.idle)


async def test_a_killed_replica_loses_only_the_answers_it_had_begun() -> None:
    """Requests it had not begun to answer go to the second choice; it leaves, restarts and serves again."""
    async with running_up(3, engine=PACED) as edge:
        load = Load(edge, 24)
        await load.more(24)
        victim = edge.replica("sim-2")
        victim.kill()

        async def left() -> bool:
            return (await edge.states()).get("sim-2") != "up"

        await until(left)

        async def back() -> bool:
            return (await edge.states()).get("sim-2") == "up"

        await until(back)
        before = load.served["sim-2"]
        for number in range(60):  # sessions that have no home yet find the idle one
            await edge.chat(session=f"fresh-{number}")
        await load.more(24)
        await load.stop()
        # A cut stream had been answered (200 and tokens) by the dead replica; a refusal would be a status.
        assert all(not f.startswith("AssertionError: (") for f in load.failures), load.failures
        assert len(load.failures) <= 24
        assert edge.replica("sim-2").pid != victim.pid
        assert load.served["sim-2"] >= before
        await until(edge.idle)


async def test_a_replica_that_joins_is_used_without_a_reload() -> None:
    """Added under load through the admin API: no error, requests reach it, HAProxy is the same process."""
    async with running_up(1) as other, running_up(1, engine=PACED) as edge:
        pid = edge.part("-W").pid
        load = Load(edge, 8)
        await load.more(8)
        url = (await other.replicas())["sim-1"]["url"]
        await edge.admin.put("/v1/replicas/joined", json={"url": url, "model": "sim"})

        async def serves() -> bool:
            return (await edge.chat("x")).headers["x-pointsman-replica"] == "joined"

        await until(serves)
        await load.stop()
        assert load.failures == []
        assert edge.part("-W").pid == pid
        assert (await edge.metrics())["pointsman_haproxy_restarts_total"] == 0


async def test_a_killed_haproxy_comes_back_with_its_servers() -> None:
    """Its streams die with it; the next request after its restart is served, without waiting for the router."""
    async with running_up(2) as edge:
        edge.part("-W").kill()

        async def serves() -> bool:
            try:
                return (await edge.chat()).status_code == 200
            except httpx.HTTPError:
                return False

        await until(serves)
        text = (edge.run_dir / "haproxy.cfg").read_text()
        assert "server sim-1" in text and "server sim-2" in text

        async def seen() -> bool:
            return (await edge.metrics())["pointsman_haproxy_restarts_total"] == 1

        await until(seen)
        await until(edge.idle)


async def churn(edge: RunningEdge, requests: int) -> Counter[str]:
    """Requests of every fate: finished, streamed, abandoned before and during the answer, refused by the replica."""
    fates: Counter[str] = Counter()
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        session = f"s{number % 50}" if number % 3 else None
        async with gate:
            match number % 5:
                case 0:
                    await edge.chat(session=session)
                    fates["finished"] += 1
                case 1:
                    await read_stream(edge, tokens=5, session=session)
                    fates["streamed"] += 1
                case 2:
                    answered = await ask_and_leave(edge, session, within_s=0.004 * (number % 7))
                    fates["finished" if answered else "abandoned"] += 1
                case 3:
                    body = {"model": "sim", "stream": True, "ignore_eos": True, "max_tokens": 500,
                            "messages": [{"role": "user", "content": "leave early"}]}  # fmt: skip
                    async with edge.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        async for _ in answer.aiter_raw():
                            break
                    fates["left mid-stream"] += 1
                case 4:
                    await edge.client.post("/v1/completions", content=b"{broken", headers={"x-session-id": "b"})
                    fates["refused"] += 1

    await asyncio.gather(*(one(n) for n in range(requests)))
    return fates


async def ask_and_leave(edge: RunningEdge, session: str | None, within_s: float) -> bool:
    """Whether a request is answered within that time, after which its client leaves.

    Not by httpx: cancelled while it connects, it drops the connection without closing it.
    """
    at = urlsplit(edge.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        message = {"role": "user", "content": "leave at once"}
        body = json.dumps({"model": "sim", "messages": [message], "max_tokens": 200, "ignore_eos": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\n"
        if session:
            head += f"x-session-id: {session}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        async with asyncio.timeout(within_s):
            await reader.readuntil(b"\r\n\r\n")
        return True
    except TimeoutError:
        return False
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("requests", [600, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_in_flight_is_exactly_zero_after_requests_of_every_fate(requests: int) -> None:
    """Abandoned, retried and finished requests later nothing is in flight anywhere: ours, HAProxy's, the replicas'."""
    resets = requests // 20
    async with running_up(
        2,
        engine={"token_interval_ms": 1, "faults": True},
        haproxy={"replay": True},
        # All resets may come before enough requests have ended for a share of them to cover the retries.
        router={"outliers": {"retry_floor": resets}},
    ) as edge:
        urls = [view["url"] for view in (await edge.replicas()).values()]
        async with httpx.AsyncClient() as direct:
            await direct.post(f"{urls[0]}/sim/fault", json={"reset_before_response": resets})
            fates = await churn(edge, requests)
            assert sum(fates.values()) == requests
            assert fates["abandoned"] and fates["streamed"], fates
            await until(edge.idle)
            metrics = await edge.metrics()
            assert metrics['pointsman_reservations_dropped_total{cause="leaked"}'] == 0
            assert metrics['pointsman_reservations_dropped_total{cause="expired"}'] == 0
            assert metrics["pointsman_lookup_errors_total"] == 0
            retried = sum(v for k, v in metrics.items() if k.startswith("pointsman_redispatches_total"))
            assert retried > 0, "resets before the response were to be retried elsewhere"
            for url in urls:

                async def engine_idle(url: str = url) -> bool:
                    text = (await direct.get(f"{url}/metrics")).text
                    return all(
                        line.endswith((" 0", " 0.0"))
                        for line in text.splitlines()
                        if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting{"))
                    )

                await until(engine_idle)
        stat = await edge.haproxy("show stat fleet 6 -1")
        rows = [line.split(",") for line in stat.splitlines() if line and not line.startswith("#")]
        assert {row[4] for row in rows} == {"0"}, "HAProxy's own sessions"


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_clients_that_leave_before_the_lookup_do_not_fail_open(lookup: str) -> None:
    """With the body half sent, whole, or never to come: the router was not away, and no counter says that it was."""
    body = b'{"model":"sim","messages":[{"role":"user","content":"x"}],"max_tokens":4}'
    # So that a busy machine does not make the edge fail open.
    patient = {"timeouts": {"processing_ms": 5000, "body_s": 1}}
    async with running_up(1, "--lookup", lookup, haproxy=patient) as edge:
        host, _, port = edge.url.removeprefix("http://").rpartition(":")

        async def leave(sent: bytes, *, at_once: bool) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + sent)
            await writer.drain()
            if not at_once:
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.transport.abort()

        leaving = [leave(sent, at_once=True) for sent in (body, body[:20]) for _ in range(20)]
        await asyncio.gather(*leaving, *(leave(body[:20], at_once=False) for _ in range(10)))

        async def all_ended() -> bool:
            return (await edge.metrics())["pointsman_ring_lines_total"] >= 50

        await until(all_ended)
        metrics = await edge.metrics()
        assert metrics["pointsman_fail_open_total"] == 0
        assert metrics['pointsman_undecided_total{cause="client-left"}'] >= 20
        assert metrics['pointsman_undecided_total{cause="client-timeout"}'] == 10
        assert metrics["pointsman_ring_malformed_lines_total"] == 0


async def test_a_reload_of_haproxy_refuses_nobody_and_cuts_no_stream() -> None:
    """SIGHUP to `up` under streams: fresh workers start with the servers of the moment, old ones finish theirs."""
    async with running_up(2, engine=PACED) as edge:
        load = Load(edge, 16, tokens=30)
        await load.more(16)
        edge.process.send_signal(signal.SIGHUP)

        async def reloaded() -> bool:
            return (await edge.metrics())["pointsman_haproxy_restarts_total"] == 1

        await until(reloaded)
        answers = await asyncio.gather(*(edge.chat(f"after {n}") for n in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        await load.more(32)
        await load.stop()
        assert load.failures == []
        await until(edge.idle)
