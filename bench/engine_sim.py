"""Costs of the simulated engine: `python -m bench.engine_sim [--json] [--rounds 3]`.

Streams: a replica with the `fast` preset in a process of its own sends chat completions to clients that only count
bytes, 1, 32 and 256 at a time, each on its own connection. Reported: server-sent events per second, and the replica's
CPU time per event (user and system), the median over rounds. Sizes take turns, so that a slow spell of the machine
falls on all.

Requests: the same replica answers 2 KB chat completions of one token on 8 kept connections. Reported: its CPU time per
request, the median over rounds.

Fleet: 8 modelled engines (dense-h100, 524k tokens of KV each) play 400 agentic sessions of 20 turns, prompts of 36k
tokens on average, in virtual time; sessions stay where the least loaded engine took their first turn. Reported:
requests per second of wall time, and what they saw in virtual time.
"""

from __future__ import annotations

import random
import selectors
import socket
import statistics
import subprocess
import sys
import time
from functools import partial

from bench.cpu import process_cpu_ns
from bench.form import read_options, row, show
from bench.http import AnswerReader, chat_body
from bench.load import quantile
from pointsman.engine.sim.model import SimRequest, StepResult
from pointsman.simulator.clock import VirtualClock
from pointsman.simulator.engines import Engines
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Session

STREAMS = (1, 32, 256)
EVENTS_A_ROUND = 100_000
REQUESTS_A_ROUND = 2_000
REQUEST_BYTES = 2_000
CONNECTIONS = 8
ENGINES = 8


def stream_once(port: int, pid: int, streams: int) -> tuple[float, float]:
    """(events per second, CPU microseconds per event) of `streams` answers at once."""
    request = _chat(chat_body(300, max_tokens=EVENTS_A_ROUND // streams, stream=True, ignore_eos=True), "close")
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ)
    before_ns, started_s = process_cpu_ns(pid), time.perf_counter()
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
    return received / wall_s, (process_cpu_ns(pid) - before_ns) / received / 1000


def request_many(port: int, pid: int) -> float:
    """CPU microseconds per request of one token, answered whole."""
    request = _chat(chat_body(REQUEST_BYTES), "keep-alive")
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    reader = AnswerReader()
    before_ns = process_cpu_ns(pid)
    for _ in range(REQUESTS_A_ROUND // CONNECTIONS):
        for client in clients:
            client.sendall(request)
        for client in clients:
            reader.reset()
            while not reader.feed(client.recv(1 << 16)):
                pass
    used_ns = process_cpu_ns(pid) - before_ns
    for client in clients:
        client.close()
    return used_ns / (REQUESTS_A_ROUND // CONNECTIONS * CONNECTIONS) / 1000


def _chat(body: bytes, connection: str) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nconnection: %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (connection.encode(), len(body), body)
    )


def measure_http(rounds: int) -> tuple[list[dict[str, float]], float]:
    """Start a replica and ask it for streams and for whole answers; the latter's CPU microseconds per request."""
    command = [sys.executable, "-m", "pointsman.engine.sim", "--timing", "fast"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
        try:
            assert replica.stdout is not None
            ready = replica.stdout.readline()
            port = int(ready.rpartition(":")[2])
            stream_once(port, replica.pid, 8)
            seen: dict[int, list[tuple[float, float]]] = {streams: [] for streams in STREAMS}
            per_request: list[float] = []
            for _ in range(rounds):
                per_request.append(request_many(port, replica.pid))
                for streams in STREAMS:
                    seen[streams].append(stream_once(port, replica.pid, streams))
        finally:
            replica.terminate()
    streaming = [
        {
            "streams": streams,
            "events_per_s": statistics.median(rate for rate, _ in results),
            "cpu_us_per_event": statistics.median(us for _, us in results),
        }
        for streams, results in seen.items()
    ]
    return streaming, statistics.median(per_request)


def measure_fleet(sessions: int = 400, sessions_per_s: float = 0.6) -> dict[str, float]:
    """Play agentic sessions on 8 engines."""
    trace = generate(WORKLOADS["agentic"], sessions=sessions, seed=1).at_rate(sessions_per_s, random.Random(1))
    started_s = time.perf_counter()
    settings = FleetSettings(replicas=ENGINES)
    replicas = [VirtualReplica(number, settings, trace) for number in range(ENGINES)]
    load = [0] * ENGINES
    homes: dict[str, VirtualReplica] = {}
    asked: dict[str, tuple[Session, int, float]] = {}
    waits_s: list[float] = []
    prompts = cached_tokens = 0

    def stepped(replica: VirtualReplica, result: StepResult, at_s: float) -> None:
        nonlocal prompts, cached_tokens
        for name, cached in result.first.items():
            session, turn, arrived_s = asked[name]
            waits_s.append(at_s - arrived_s)
            prompts, cached_tokens = prompts + session.turns[turn].prompt_tokens, cached_tokens + cached
        for name in result.finished:
            session, turn, _ = asked.pop(name)
            load[replica.index] -= 1
            if turn + 1 < len(session.turns):
                clock.at(at_s + session.turns[turn + 1].pause_s, partial(arrive, session, turn + 1))

    def arrive(session: Session, number: int, now_s: float) -> None:
        replica = homes.setdefault(session.id, replicas[min(range(ENGINES), key=load.__getitem__)])
        turn, name = session.turns[number], f"{session.id}.{number}"
        asked[name] = (session, number, now_s)
        load[replica.index] += 1
        engines.add(replica, SimRequest(name, turn.prompt_tokens, turn.output_tokens, turn.blocks), now_s)

    clock = VirtualClock()
    engines = Engines(clock, stepped)
    for session in trace.sessions:
        clock.at(session.start_s, partial(arrive, session, 0))
    clock.run()
    wall_s = time.perf_counter() - started_s
    return {
        "requests": len(waits_s),
        "requests_per_s": len(waits_s) / wall_s,
        "wall_s": wall_s,
        "first_token_ms_mean": statistics.fmean(waits_s) * 1000,
        "first_token_ms_p99": quantile(waits_s, 0.99) * 1000,
        "hit_rate": cached_tokens / prompts,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    options = read_options("engine_sim", __doc__, arguments, rounds=3)
    streams, cpu_us = measure_http(options.rounds)
    fleet = measure_fleet()
    lines = [
        row("streams", ("events/s", "CPU us/event")),
        *(row(str(count), (f"{rate:,.0f}", f"{us:.1f}")) for count, rate, us in (one.values() for one in streams)),
        f"a request of one token: {cpu_us:.0f} us",
        f"fleet of {ENGINES}: {fleet['requests']} requests "
        f"in {fleet['wall_s']:.1f} s ({fleet['requests_per_s']:,.0f}/s); "
        f"first token mean {fleet['first_token_ms_mean']:.0f} ms, p99 {fleet['first_token_ms_p99']:.0f} ms, "
        f"hits {fleet['hit_rate']:.1%}",
    ]
    show(options.json, {"streams": streams, "cpu_us_per_request": cpu_us, "fleet": fleet}, lines)


if __name__ == "__main__":
    main()
