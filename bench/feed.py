"""Costs of reports from engines to routers: `python -m bench.feed [--json] [--messages 2000]`.

`message`: CPU of router and engine for one message (16 keys stored, 16 evicted, a first token, an end), over HTTP and
over a connection that stays open; the router in this process, the engine's side in another. The router's share holds
what the message makes it do, which is the same both ways. `request`: what a replica adds to a request of 16, 64 and
128 prefix keys, up to the message: keys of the bytes that pass, depths, KV events as vLLM sends them, attribution.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
import uvloop

from bench.form import read_options, show
from pointsman.contract.events import EngineEvents, EngineLoad, Finished, FirstToken
from pointsman.contract.prefix_keys import BOUNDARIES, KeyStream, scope_of, scoped
from pointsman.contract.registration import Registration
from pointsman.engine.attribution import Attribution, KeyDepths
from pointsman.engine.transport import HttpTransport, RouterTransport, Transport
from pointsman.engine.vllm.replica.kv_events import Batch, Block, BlockRemoved, BlockStored
from pointsman.router.app import Router
from pointsman.router.settings import load_settings

WAYS: dict[str, Callable[[str, str, str], Transport]] = {"http": HttpTransport, "feed": RouterTransport}
ROUNDS = 3
REQUESTS = 50
BLOCK_TOKENS = 16
BYTES_PER_TOKEN = 4
PIECE_BYTES = 65_536
"""As uvicorn hands bodies on."""


def message(seq: int, *, snapshot: bool = False) -> EngineEvents:
    """Of a replica that serves fifty requests a second."""
    keys = [(seq * 16 + n) * 0x9E37_79B9_7F4A_7C15 % 2**64 for n in range(-16, 16)]
    return EngineEvents(
        epoch="bench",
        seq=seq,
        snapshot=snapshot,
        stored=keys[16:],
        tokens=[32 * n for n in range(16)],
        evicted=keys[:16],
        first=[FirstToken(f"{seq:036d}", 2000, 1000, 50.0)],
        finished=[Finished(f"{seq - 1:036d}", 2000, 200)],
        load=EngineLoad(running=3),
        capacity_tokens=100_000,
        block_tokens=BLOCK_TOKENS,
    )


async def speak(way: str, admin_url: str, messages: int) -> float:
    """The engine's side: microseconds of CPU a message."""
    transport = WAYS[way](admin_url, "", "bench")
    prepared = [message(seq, snapshot=not seq) for seq in range(messages + 2)]
    for first in prepared[:2]:
        await transport.send(first)
    started_s = time.process_time()
    for later in prepared[2:]:
        await transport.send(later)
    taken_s = time.process_time() - started_s
    await transport.close()
    return taken_s / messages * 1e6


async def listen(way: str, messages: int) -> tuple[float, float]:
    """Microseconds of CPU a message: the router's and the engine's."""
    picked = {name: {"port": 0} for name in ("spop", "ring", "lookup", "admin")}
    settings = load_settings(environment={}, overrides={**picked, "policy": {"policy": "kv_cost"}})
    async with Router(settings).running() as router:
        router.core.replicas.put("bench", Registration(url="http://127.0.0.1:1"), ("127.0.0.1", 1), router.clock())
        url = f"http://{router.addresses['admin']}"
        started_s = time.process_time()
        engine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.feed", "--speak", way, url, "--messages", str(messages)),
            stdout=subprocess.PIPE,
        )
        said, _ = await engine.communicate()
        return (time.process_time() - started_s) / messages * 1e6, float(said)


def one_request(keys: int, dice: random.Random) -> tuple[bytes, list[bytes], int]:
    """A body, the batches of events it makes an engine publish, and its length in tokens; a tenth was cached."""
    prompt = BOUNDARIES[keys - 1]
    body = b'{"model":"m","messages":[{"role":"user","content":"' + dice.randbytes(prompt // 2).hex().encode() + b'"}]}'
    tokens = prompt // BYTES_PER_TOKEN
    chain: list[Block] = [dice.getrandbits(64) for _ in range(tokens // BLOCK_TOKENS)]
    cached = len(chain) // 10
    batches = [_batch(chain[:cached], None, ""), _batch(chain[cached:], chain[cached - 1] if cached else None, "1")]
    batches.append(msgspec.msgpack.encode(Batch(0.0, [BlockRemoved([block], "GPU", 0) for block in chain], 0)))
    return body, batches, tokens


def _batch(blocks: list[Block], parent: Block | None, tag: str) -> bytes:
    stored = msgspec.to_builtins(BlockStored(blocks, parent, BLOCK_TOKENS, "GPU", 0, "full_attention", tag))
    stored["token_ids"] = list(range(len(blocks) * BLOCK_TOKENS))
    return msgspec.msgpack.encode([0.0, [stored], 0])


def request_us(keys: int) -> dict[str, float]:
    """Microseconds of CPU that telling adds to a request, by step."""
    dice = random.Random(3)
    made = [one_request(keys, dice) for _ in range(REQUESTS)]
    attribution, depths, decode = Attribution(), KeyDepths(), msgspec.msgpack.Decoder(Batch).decode
    spent = dict.fromkeys(("keys", "depths", "events"), 0.0)
    scope = scope_of("m")
    for body, batches, tokens in made:
        at_s = time.process_time_ns()
        stream = KeyStream()
        for at in range(0, len(body), PIECE_BYTES):
            stream.feed(body[at : at + PIECE_BYTES])
        own = scoped(stream.keys, scope)
        read_s = time.process_time_ns()
        attribution.begin("1", own, depths.blocks(own, stream.prompt_bytes, tokens, BLOCK_TOKENS))
        begun_s = time.process_time_ns()
        for payload in batches:
            for event in decode(payload).events:
                if isinstance(event, BlockStored):
                    attribution.stored(event.block_hashes, event.parent_block_hash, event.session_id or "")
                elif isinstance(event, BlockRemoved):
                    attribution.removed(event.block_hashes)
        attribution.take()
        attribution.finish("1")
        done_s = time.process_time_ns()
        spent["keys"] += read_s - at_s
        spent["depths"] += begun_s - read_s
        spent["events"] += done_s - begun_s
    return {name: round(total_ns / REQUESTS / 1000, 1) for name, total_ns in spent.items()}


def run(messages: int) -> dict[str, Any]:
    """All figures, in microseconds of CPU."""
    told: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, rounds in told.items():
            rounds.append(uvloop.run(listen(way, messages)))
    medians = {way: [round(statistics.median(side), 1) for side in zip(*told[way], strict=True)] for way in WAYS}
    return {
        "message": {way: {"router": router, "engine": engine} for way, (router, engine) in medians.items()},
        "request": {keys: request_us(keys) for keys in (16, 64, 128)},
    }


def main(arguments: list[str] | None = None) -> None:
    options = read_options("feed", __doc__, arguments, messages=2000, speak=[""])
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if options.speak != [""]:  # the engine's side, started by `listen`
        way, url = options.speak
        print(uvloop.run(speak(way, url, options.messages)))
        return
    found = run(options.messages)
    lines = [
        f"message over {way}: router {sides['router']} us, engine {sides['engine']} us"
        for way, sides in found["message"].items()
    ]
    lines += [
        f"request of {keys} keys: " + ", ".join(f"{step} {took} us" for step, took in steps.items())
        for keys, steps in found["request"].items()
    ]
    show(options.json, found, lines)


if __name__ == "__main__":
    main()
