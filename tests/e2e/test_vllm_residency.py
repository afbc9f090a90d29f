"""What the router predicts of real vLLM's prefix caches against what vLLM found there, under constant eviction.

Conversations that share a head take turns on three replicas whose KV holds a third of them. Each answer says how many
tokens of its prompt were cached; the router predicted that number before it chose. Then a replica is killed, then the
router, and the same must hold again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import httpx
import psutil
import pytest
from edge import RunningEdge, running_up, until
from vllm_fleet import real_vllm

pytestmark = [pytest.mark.e2e, *real_vllm(timeout_s=1800)]

SEED = 11
REPLICAS = 3
BLOCKS = 256
"""Of 32 tokens on each replica: 24,576 tokens in all."""

CONVERSATIONS = 24
"""They grow from 1,000 to 4,500 tokens each."""

AT_ONCE = 2
TURNS = 260
TURNS_AFTER = 150
MAX_PROMPT_BYTES = 22_000
BOUND = 0.05
SHARE = 0.95
"""Of all requests, those whose prediction is to be within `BOUND` of the prompt."""

SHARE_OF_A_PART = 0.93
"""The same for the requests of one part of the test: 150 of them, foreseen 97 times in 100, are below 0.93 once in 170
runs and below 0.95 once in twelve."""

RESTART_S = 600.0

ENGINE = {
    "args": ["--max-model-len=6144", f"--num-gpu-blocks-override={BLOCKS}", "--enable-prompt-tokens-details"],
    "num_cpus": 0.5,
}
TEXT = (
    "import return class self value name path data file type error result string index length buffer offset parser "
    "token match stream socket server client request response handle thread process signal module package"
)
WORDS = TEXT.split()
PATIENT = {"timeouts": {"processing_ms": 3000, "router_check_ms": 1000}}
"""On a machine that is busy with other tests, a lookup may take long; its request is to be predicted all the same."""

ERROR = "pointsman_cached_tokens_error"


class Conversations:
    """Clients that talk in turns, a few at once; `cached` and `prompts` are vLLM's own counts."""

    def __init__(self, edge: RunningEdge, label: str) -> None:
        self.edge = edge
        self.label = label
        self.dice = random.Random(f"{SEED} {label}")
        self.reasons: Counter[str] = Counter()
        self.cached: list[int] = []
        self.prompts: list[int] = []
        self.ids: list[str] = []
        head = [{"role": "system", "content": self.text(700)}]
        self.idle = [(f"{label}-{n}", list(head)) for n in range(CONVERSATIONS)]

    def text(self, words: int) -> str:
        return " ".join(self.dice.choices(WORDS, k=words))

    async def run(self, turns: int) -> None:
        """So many turns; returns once the router was told of all of them."""
        left = iter(range(turns))

        async def client() -> None:
            for _ in left:
                at = self.dice.randrange(len(self.idle))
                session, messages = self.idle.pop(at)
                await self.turn(session, messages)
                if len(json.dumps(messages)) > MAX_PROMPT_BYTES:
                    messages = messages[:1]
                    session += "+"
                self.idle.append((session, messages))

        before = (await errors(self.edge))[-1][1]
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        await until(lambda: told(self.edge, before + turns))

    async def turn(self, session: str, messages: list[dict[str, str]]) -> None:
        messages.append({"role": "user", "content": self.text(self.dice.randrange(60, 300))})
        body = {"model": "tiny", "messages": messages, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        answer = await self.edge.client.post("/v1/chat/completions", json=body, headers={"x-session-id": session})
        assert answer.status_code == 200, answer.text
        said = answer.json()
        self.reasons[answer.headers["x-pointsman-reason"]] += 1
        self.ids.append(answer.headers["x-pointsman-request-id"])
        self.prompts.append(said["usage"]["prompt_tokens"])
        self.cached.append(said["usage"]["prompt_tokens_details"]["cached_tokens"])
        messages.append({"role": "assistant", "content": said["choices"][0]["message"]["content"]})


async def errors(edge: RunningEdge) -> list[tuple[float, float]]:
    """The histogram of |predicted - actual| cached tokens over prompt tokens: (bound, requests up to there)."""
    found = [
        (float(name.split('"')[1]), value)
        for name, value in (await edge.metrics()).items()
        if name.startswith(f"{ERROR}_bucket")
    ]
    return sorted(found)


async def told(edge: RunningEdge, requests: float) -> bool:
    return (await errors(edge))[-1][1] >= requests


def share_within(before: list[tuple[float, float]], after: list[tuple[float, float]], bound: float) -> float:
    """Share of the requests in between whose error is at most `bound`."""
    counted = [(at, count - start) for (at, count), (_, start) in zip(after, before, strict=True)]
    print({at: f"{count / counted[-1][1]:.3f}" for at, count in counted})
    return dict(counted)[bound] / counted[-1][1]


async def check(edge: RunningEdge, talk: Conversations, turns: int, what: str) -> float:
    """Takes `turns` turns and returns how many were foreseen; holds the router's count of cached tokens to vLLM's."""
    histogram, metrics = await errors(edge), await edge.metrics()
    first = len(talk.cached)
    await talk.run(turns)
    cached, prompts = sum(talk.cached[first:]), sum(talk.prompts[first:])
    print(f"{what}: {cached / prompts:.3f} of {prompts} tokens cached; {dict(talk.reasons)}")
    now = await edge.metrics()
    for name, actual in (("cached_tokens", cached), ("prompt_tokens", prompts)):
        assert counted(now, name) - counted(metrics, name) == actual, name
    await check_records(edge, talk, first)
    foreseen = share_within(histogram, await errors(edge), BOUND)
    assert foreseen >= SHARE_OF_A_PART, what
    return foreseen * turns


def counted(metrics: dict[str, float], name: str) -> float:
    """Sum of a counter over models and tenants."""
    return sum(value for sample, value in metrics.items() if sample.startswith(f"pointsman_{name}_total{{"))


async def check_records(edge: RunningEdge, talk: Conversations, first: int) -> None:
    """Holds the decision records since request number `first` to vLLM's own counts, request by request."""
    foreseen = 0
    for request_id, cached, prompt in zip(talk.ids[first:], talk.cached[first:], talk.prompts[first:], strict=True):
        record = await ended_record(edge, request_id)
        outcome = record["outcome"]
        assert (outcome["prompt_tokens"], outcome["actual_cached"]) == (prompt, cached), record
        assert (outcome["output_tokens"], outcome["ended"], outcome["status"]) == (24, "length", 200), record
        foreseen += abs(outcome["predicted_cached"] - cached) <= BOUND * prompt
    print(
        f"{foreseen} of {len(talk.ids) - first} records foresaw vLLM's cached tokens within {BOUND:.0%} of the prompt"
    )
    assert foreseen >= SHARE_OF_A_PART * (len(talk.ids) - first)


async def ended_record(edge: RunningEdge, request_id: str) -> dict[str, Any]:
    """The record of a request, once its engine told how it ended: up to a second after the client has the answer."""
    record: dict[str, Any] = {}

    async def told_how() -> bool:
        record.update((await edge.admin.get(f"/v1/decisions/{request_id}")).json())
        return "ended" in record["outcome"]

    await until(told_how)
    return record


async def kill_replica(edge: RunningEdge, replica: str) -> None:
    """SIGKILL to the actor that listens on the replica's port, and to its children."""
    port = int((await edge.replicas())[replica]["url"].rpartition(":")[2])
    owners = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    assert len(owners) == 1, owners
    actor = psutil.Process(owners.pop())
    for process in [*actor.children(recursive=True), actor]:
        process.kill()


async def all_up(edge: RunningEdge) -> bool:
    try:
        states = await edge.states()
    except httpx.TransportError:
        return False
    return len(states) == REPLICAS and set(states.values()) == {"up"}


async def test_cached_tokens_are_foreseen() -> None:
    """Within 5 % of the prompt for 95 % of requests: at first, after a replica's restart, and after the router's."""
    async with running_up(
        REPLICAS, "--engine", "vllm", "--policy", "kv_cost", engine=ENGINE, haproxy=PATIENT, start_s=600.0
    ) as edge:
        talk = Conversations(edge, "a")
        foreseen = await check(edge, talk, TURNS, "fresh")
        metrics = await edge.metrics()
        assert metrics["pointsman_kv_resyncs_total"] == 0
        capacities = [value for name, value in metrics.items() if name.startswith("pointsman_kv_capacity_tokens")]
        assert len(capacities) == REPLICAS and all(value <= 32 * BLOCKS for value in capacities)
        # Full, all the time: what is stored has pushed something out.
        assert metrics["pointsman_engine_keys_total"] > 3 * metrics["pointsman_prefix_index_keys"]

        victim = sorted(await edge.states())[0]
        await kill_replica(edge, victim)
        await until(lambda: not_up(edge, victim))
        await until(lambda: all_up(edge), RESTART_S)
        foreseen += await check(edge, talk, TURNS_AFTER, "after a replica's restart")

        edge.router().kill()
        await until(lambda: all_up(edge), RESTART_S)
        back_s = time.monotonic()
        await until(lambda: reporting(edge))
        print(f"{time.monotonic() - back_s:.2f} s after the router was back it knew what is resident")
        await until(lambda: asked_again(edge))
        foreseen += await check(edge, talk, TURNS_AFTER, "after the router's restart")
        assert foreseen / (TURNS + 2 * TURNS_AFTER) >= SHARE


async def not_up(edge: RunningEdge, replica: str) -> bool:
    return (await edge.states()).get(replica) != "up"


async def asked_again(edge: RunningEdge) -> bool:
    """Whether HAProxy has seen the router: until then it chooses alone, and nothing is foreseen."""
    rows = [line.split() for line in (await edge.haproxy("show servers state pm-router")).splitlines()]
    (router,) = [row for row in rows if row[1:4:2] == ["pm-router", "router"]]
    return router[5] == "2"  # srv_op_state: running (management.txt, "show servers state")


async def reporting(edge: RunningEdge) -> bool:
    """Whether every engine has told the router what it holds. Each one speaks at once, and then every few seconds."""
    metrics = await edge.metrics()
    return metrics["pointsman_engine_messages_total"] >= REPLICAS and metrics["pointsman_prefix_index_keys"] > 0
