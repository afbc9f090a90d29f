"""Made-up workloads with stated distributions and a seed.

`WORKLOADS` names them; `generate` makes one. Sessions start one a second on average: `Trace.at_rate` sets the pace.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from itertools import count

import msgspec

from pointsman.simulator.trace import BYTES_PER_TOKEN, Session, Trace, Turn, poisson_starts

BLOCK_SIZE = 64

MAX_REQUESTS = 1_000_000
"""A trace is held in memory: about 200 bytes a request and 8 a block."""


class Lognormal(msgspec.Struct, frozen=True):
    """Lognormal by median and mean, cut to low..high."""

    median: float
    mean: float
    low: float
    high: float

    def draw(self, rng: random.Random) -> float:
        if self.low == self.high:
            return self.low
        sigma = math.sqrt(2 * math.log(self.mean / self.median))
        return min(self.high, max(self.low, rng.lognormvariate(math.log(self.median), sigma)))


def constant(value: float) -> Lognormal:
    return Lognormal(value, value, value, value)


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions of sessions; token counts, seconds for pauses."""

    summary: str
    turns: Lognormal
    first: Lognormal
    """Prompt of the first turn, system prompt included."""
    added: Lognormal
    """Tokens that the client adds between an answer and the next prompt."""
    output: Lognormal
    pause_s: Lognormal = Lognormal(1.2, 2.5, 0.05, 60.0)
    system_tokens: int = 0
    """Length of the system prompt all sessions of one application share."""
    applications: int = 1
    """Popularity falls as a Pareto law (exponent 1.1): the first one has about half of all sessions."""
    has_session_ids: bool = True
    chat_share: float = 0.0
    """Share of sessions that are instead a person's chat: short prompts, 30 s pauses."""


_NO_PAUSE = constant(0.0)
_ANSWER = Lognormal(70, 230, 4, 2_000)

_AGENTIC = Workload(
    summary="agents: 25k-token contexts that grow over 20 turns, 8 applications with 6k-token system prompts",
    turns=constant(20),
    first=Lognormal(24_000, 25_000, 8_000, 60_000),
    added=Lognormal(400, 1_000, 20, 8_000),
    output=_ANSWER,
    system_tokens=6_144,
    applications=8,
)

_CHAT = Workload(
    summary="people chatting",
    turns=Lognormal(5, 6, 1, 30),
    first=Lognormal(700, 1_200, 100, 16_000),
    added=Lognormal(60, 150, 5, 4_000),
    output=Lognormal(200, 350, 4, 2_000),
    pause_s=Lognormal(20, 30, 1, 300),
    system_tokens=0,
)

WORKLOADS: dict[str, Workload] = {
    "agentic": _AGENTIC,
    "agentic_no_ids": msgspec.structs.replace(
        _AGENTIC, summary="the agents, whose clients send no session id", has_session_ids=False
    ),
    "prefill_heavy": msgspec.structs.replace(
        _AGENTIC,
        summary="agents that read much: four times the tokens added a turn, 12 turns",
        turns=constant(12),
        added=Lognormal(1_600, 4_000, 80, 32_000),
    ),
    "short_sessions": Workload(
        summary="sessions of 3 short turns under one 12k-token system prompt",
        turns=constant(3),
        first=Lognormal(13_000, 13_200, 12_352, 24_000),
        added=Lognormal(100, 200, 5, 4_000),
        output=_ANSWER,
        system_tokens=12_288,
    ),
    "single_turn": Workload(
        summary="one request a session, nothing shared",
        turns=constant(1),
        first=Lognormal(1_500, 3_000, 64, 32_000),
        added=_NO_PAUSE,
        output=_ANSWER,
        pause_s=_NO_PAUSE,
    ),
    "shared_system_prompt": Workload(
        summary="one request a session, all under one 12k-token system prompt",
        turns=constant(1),
        first=Lognormal(12_800, 13_000, 12_352, 24_000),
        added=_NO_PAUSE,
        output=_ANSWER,
        pause_s=_NO_PAUSE,
        system_tokens=12_288,
    ),
    "mixed": msgspec.structs.replace(
        _AGENTIC, summary="half of the sessions agents, half people chatting", chat_share=0.5
    ),
}


def generate(
    workload: Workload,
    *,
    sessions: int,
    seed: int,
    name: str = "generated",
    bytes_per_token: float = BYTES_PER_TOKEN,
    reuse_generated: bool = True,
) -> Trace:
    """`sessions` sessions; the same seed gives the same ones, whatever their rate."""
    arrivals, contents = random.Random(f"{seed} arrivals"), random.Random(f"{seed} contents")
    names = count(1)
    heads = [[next(names) for _ in range(workload.system_tokens // BLOCK_SIZE)] for _ in range(workload.applications)]
    made = []
    for number, start_s in enumerate(poisson_starts(sessions, 1.0, arrivals)):
        is_chat = workload.chat_share > 0 and contents.random() < workload.chat_share
        like = _CHAT if is_chat else workload
        head = [] if is_chat else heads[min(len(heads), int(contents.paretovariate(1.1))) - 1]
        made.append(
            Session(f"s{number}" if workload.has_session_ids else "", start_s, _turns(like, head, names, contents))
        )
    return Trace(name, BLOCK_SIZE, tuple(made), bytes_per_token, reuse_generated)


def _turns(workload: Workload, head: list[int], names: count[int], rng: random.Random) -> tuple[Turn, ...]:
    """One conversation: each prompt is the one before, its answer and something added."""
    blocks = list(head)  # one list for all turns: a prompt is as much of it as it is long
    prompt = max(len(head) * BLOCK_SIZE + 1, int(workload.first.draw(rng)))
    turns = []
    for index in range(round(workload.turns.draw(rng))):
        output = int(workload.output.draw(rng))
        while len(blocks) < (prompt + output) // BLOCK_SIZE:
            blocks.append(next(names))
        turns.append(Turn(prompt, output, workload.pause_s.draw(rng) if index else 0.0, blocks))
        prompt += output + int(workload.added.draw(rng))
    return tuple(turns)


def describe(workloads: Mapping[str, Workload] = WORKLOADS) -> str:
    """One line a workload, for people."""
    return "\n".join(f"{name}: {workload.summary}" for name, workload in workloads.items())
