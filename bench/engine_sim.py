"""What the simulated engine costs: `python -m bench.engine_sim [--json] [--rounds 3]`.

Streams: a replica with the `fast` preset in a process of its own sends chat completions to clients that only count
bytes, 1, 32 and 256 at a time, each on its own connection. Reported: server-sent events per second, and the replica's
CPU time per event (user and system), the median over rounds. Sizes take turns, so that a slow spell of the machine
falls on all.

Requests: the same replica answers 2 KB chat completions of one token on 8 kept connections. Reported: its CPU time per
request, the median over rounds.

Fleet: 8 modelled engines (dense-h100, 524k tokens of KV each) play 400 agentic sessions of 20 turns, prompts of 25k
tokens on average, in virtual time; sessions stay where the least loaded engine took their first turn. Reported:
requests per second of wall time, and what they saw in virtual time.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import platform
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import psutil

from bench.http import AnswerReader, chat_body
from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import EngineModel, SimRequest
from pointsman.engine.sim.timeline import Timeline

STREAMS = (1, 32, 256)
EVENTS_A_ROUND = 100_000
REQUESTS_A_ROUND = 2_000
REQUEST_BYTES = 2_000
CONNECTIONS = 8
BLOCK_SIZE = 64
ENGINES = 8


@dataclass(frozen=True)
class Streaming:
    """Median over rounds."""

    streams: int
    events_per_s: float
    cpu_us_per_event: float


@dataclass(frozen=True)
class Fleet:
    """One run in virtual time."""

    requests: int
    requests_per_s: float
    wall_s: float
    first_token_ms_mean: float
    first_token_ms_p99: float
    hit_rate: float


def stream_once(port: int, process: psutil.Process, streams: int) -> tuple[float, float]:
    """(events per second, CPU microseconds per event) of `streams` answers at once."""
    request = _chat(chat_body(300, max_tokens=EVENTS_A_ROUND // streams, stream=True, ignore_eos=True), "close")
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    before, started_s = process.cpu_times(), time.perf_counter()
    for key in list(selector.get_map().values()):
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        sock.sendall(request)
    live, received = streams, 0
    while live:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = sock.recv(1 << 18)
            received += data.count(b"data: ")
            if not data:
                selector.unregister(sock)
                sock.close()
                live -= 1
    wall_s = time.perf_counter() - started_s
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return received / wall_s, cpu_s / received * 1e6


def request_many(port: int, process: psutil.Process) -> float:
    """CPU microseconds per request of one token, answered whole."""
    request = _chat(chat_body(REQUEST_BYTES), "keep-alive")
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    reader = AnswerReader()
    before = process.cpu_times()
    for _ in range(REQUESTS_A_ROUND // CONNECTIONS):
        for client in clients:
            client.sendall(request)
        for client in clients:
            reader.reset()
            while not reader.feed(client.recv(1 << 16)):
                pass
    after = process.cpu_times()
    for client in clients:
        client.close()
    cpu_s = after.user + after.system - before.user - before.system
    return cpu_s / (REQUESTS_A_ROUND // CONNECTIONS * CONNECTIONS) * 1e6


def _chat(body: bytes, connection: str) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (connection.encode(), len(body), body)
    )


def measure_http(rounds: int) -> tuple[list[Streaming], float]:
    """Start a replica and ask it for streams and for whole answers; the latter's CPU microseconds per request."""
    command = [sys.executable, "-m", "pointsman.engine.sim", "--timing", "fast"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
        try:
            assert replica.stdout is not None
            ready = replica.stdout.readline()
            port = int(ready.rpartition(":")[2])
            process = psutil.Process(replica.pid)
            stream_once(port, process, 8)
            seen: dict[int, list[tuple[float, float]]] = {streams: [] for streams in STREAMS}
            per_request: list[float] = []
            for _ in range(rounds):
                per_request.append(request_many(port, process))
                for streams in STREAMS:
                    seen[streams].append(stream_once(port, process, streams))
        finally:
            replica.terminate()
    streaming = [
        Streaming(streams, *(statistics.median(values) for values in zip(*results, strict=True)))
        for streams, results in seen.items()
    ]
    return streaming, statistics.median(per_request)


@dataclass
class Session:
    """Turns as (prompt tokens, output tokens, block hashes, pause before it in seconds)."""

    begins_s: float
    turns: list[tuple[int, int, list[int], float]]


def agentic_sessions(count: int, turns: int, sessions_per_s: float, seed: int) -> Iterator[Session]:
    """Sessions of an agent: a 25k-token context that grows turn by turn, 8 applications with a shared 6k-token head."""
    dice = random.Random(seed)
    names = iter(range(1, 1 << 62))

    def lognormal(median: float, mean: float, low: int, high: int) -> int:
        return int(min(high, max(low, dice.lognormvariate(math.log(median), math.sqrt(2 * math.log(mean / median))))))

    heads = [[next(names) for _ in range(96)] for _ in range(8)]
    now_s = 0.0
    for _ in range(count):
        now_s += dice.expovariate(sessions_per_s)
        hashes = list(heads[min(7, int(dice.paretovariate(1.1)) - 1)])
        prompt = max(len(hashes) * BLOCK_SIZE, lognormal(24_000, 25_000, 8_000, 60_000))
        session = Session(now_s, [])
        for turn in range(turns):
            output = lognormal(70, 230, 4, 2_000)
            while len(hashes) < (prompt + output) // BLOCK_SIZE:
                hashes.append(next(names))
            pause_s = lognormal(1_200, 2_500, 50, 60_000) / 1000 if turn else 0.0
            session.turns.append((prompt, output, list(hashes), pause_s))
            prompt += output + lognormal(400, 1_000, 20, 8_000)
        yield session


def measure_fleet(sessions: int = 400, turns: int = 20, sessions_per_s: float = 0.6) -> Fleet:
    """Play the sessions on 8 engines."""
    plan = list(agentic_sessions(sessions, turns, sessions_per_s, seed=1))
    started_s = time.perf_counter()
    engines = [Timeline(EngineModel(ModelConfig(blocks=8_192, block_size=BLOCK_SIZE))) for _ in range(ENGINES)]
    load = [0] * ENGINES
    homes: dict[int, int] = {}
    arrived_s: dict[str, float] = {}
    waits_s: list[float] = []
    # (time, tie-break, session or -1 - engine, turn)
    events: list[tuple[float, int, int, int]] = [(s.begins_s, i, i, 0) for i, s in enumerate(plan)]
    heapq.heapify(events)
    order = len(events)

    def play(engine: int, now_s: float) -> None:
        nonlocal order
        for outcome in engines[engine].advance(now_s):
            waits_s.extend(outcome.at_s - arrived_s.pop(name) for name in outcome.result.first)
            for name in outcome.result.finished:
                load[engine] -= 1
                session, turn = map(int, name.split("."))
                if turn + 1 < len(plan[session].turns):
                    order += 1
                    at_s = outcome.at_s + plan[session].turns[turn + 1][3]
                    heapq.heappush(events, (at_s, order, session, turn + 1))

    while events:
        now_s, _, who, turn = heapq.heappop(events)
        if who < 0:
            engine = -1 - who
            if engines[engine].next_s > now_s:
                continue
            play(engine, now_s)
        else:
            engine = homes.setdefault(who, min(range(ENGINES), key=lambda e: load[e]))
            play(engine, now_s)
            prompt, output, hashes, _ = plan[who].turns[turn]
            name = f"{who}.{turn}"
            arrived_s[name] = now_s
            load[engine] += 1
            engines[engine].add(SimRequest(name, prompt, output, hashes), now_s)
        if engines[engine].next_s < math.inf:
            order += 1
            heapq.heappush(events, (engines[engine].next_s, order, -1 - engine, 0))
    wall_s = time.perf_counter() - started_s
    waits_s.sort()
    stats = [engine.model.stats() for engine in engines]
    return Fleet(
        requests=len(waits_s),
        requests_per_s=len(waits_s) / wall_s,
        wall_s=wall_s,
        first_token_ms_mean=statistics.fmean(waits_s) * 1000,
        first_token_ms_p99=waits_s[int(len(waits_s) * 0.99)] * 1000,
        hit_rate=sum(s.prefix_hits for s in stats) / sum(s.prefix_queries for s in stats),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    streams, cpu_us_per_request = measure_http(arguments.rounds)
    fleet = measure_fleet()
    if arguments.json:
        shown = {"streams": [asdict(s) for s in streams], "cpu_us_per_request": cpu_us_per_request}
        print(json.dumps({**shown, "fleet": asdict(fleet)}, indent=1))
        return
    print(f"Python {platform.python_version()}, {platform.machine()}, {psutil.cpu_count()} cores\n")
    print("streams   events/s   CPU us/event")
    for row in streams:
        print(f"{row.streams:7} {row.events_per_s:10,.0f} {row.cpu_us_per_event:14.1f}")
    print(f"\na request of one token: {cpu_us_per_request:.0f} us")
    print(
        f"\nfleet of {ENGINES}: {fleet.requests} requests in {fleet.wall_s:.1f} s ({fleet.requests_per_s:,.0f}/s); "
        f"first token mean {fleet.first_token_ms_mean:.0f} ms, p99 {fleet.first_token_ms_p99:.0f} ms, "
        f"hits {fleet.hit_rate:.1%}"
    )


if __name__ == "__main__":
    main()
