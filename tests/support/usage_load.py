"""Requests of all kinds through a whole edge, and what engines themselves wrote down of each, beside the usage counted.

Each request has an API key and a tenant of its own, `TENANT-NUMBER`: so usage is compared request by request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from edge import RunningEdge, until

from pointsman.contract.registration import LEG_SUFFIX

TENANTS = ("acme", "zeta", "omega")
AT_ONCE = 24
NAMES = ("prompt_tokens", "cached_tokens", "output_tokens")
KINDS = {"stream": 6, "whole": 4, "abort": 5, "abort whole": 2, "choices": 1, "prompts": 1}
"""Kinds of requests, by weight."""


class Figures(NamedTuple):
    """Tokens of one request."""

    prompt: int = 0
    cached: int = 0
    output: int = 0

    def plus(self, other: Figures) -> Figures:
        return Figures(*(one + another for one, another in zip(self, other, strict=True)))


@dataclass
class Attempt:
    """One request in one engine process."""

    request_id: str
    tag: str = ""
    prompts: dict[int, Figures] = field(default_factory=dict)
    output: int = 0
    ended_s: float | None = None

    @property
    def figures(self) -> Figures:
        found = Figures(output=0 if self.request_id.endswith(LEG_SUFFIX) else self.output)
        for prompt in self.prompts.values():
            found = found.plus(prompt)
        return found


def keys_map(requests: int) -> str:
    """HAProxy's map of API keys: one for each request."""
    lines = (f"{hashlib.sha256(secret(n).encode()).hexdigest()} {tenant(n)}" for n in range(requests))
    return "".join(f"{line}\n" for line in lines)


def secret(number: int) -> str:
    return f"sk-{number}"


def tenant(number: int) -> str:
    return f"{TENANTS[number % len(TENANTS)]}-{number}"


def read_log(path: Path) -> dict[str, Attempt]:
    """What engines wrote, by attempt; its name begins with the pid of the engine."""
    attempts: dict[str, Attempt] = {}
    tokens: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        kind, *rest = json.loads(line)
        if kind == "begin":
            attempts[rest[0]] = Attempt(*rest[1:])
        elif kind == "prompt":
            attempt, _, number, prompt, cached, handed = rest
            # One prompt counts once, however many answers it has: with what the first one to run found cached.
            attempts[attempt].prompts.setdefault(number, Figures() if handed else Figures(prompt, cached))
        elif kind == "end":
            attempts[rest[0]].ended_s = rest[2]
        else:
            tokens.update(rest[0])
    for attempt, count in tokens.items():
        attempts[attempt].output = count
    return attempts


class UsageLoad:
    """Clients of an edge."""

    def __init__(self, edge: RunningEdge, log: Path, *, seed: int = 3) -> None:
        self.edge = edge
        self.log = log
        self.kinds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.killed: dict[int, float] = {}
        """Time of death of each engine that was killed, by pid."""
        self._dice = random.Random(seed)

    async def run(self, numbers: Iterator[int]) -> None:
        """Send requests until there are no more numbers."""

        async def client() -> None:
            for number in numbers:
                await self._one(number)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))

    async def _one(self, number: int) -> None:
        dice = self._dice
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        self.kinds[kind] += 1
        path, body = self._body(number, kind)
        headers = {"authorization": f"Bearer {secret(number)}", "x-request-tag": tenant(number)}
        if number % 5 == 0:
            headers["x-session-id"] = f"session {number % 40}"
        leave_s = dice.expovariate(1 / 0.03) if kind.startswith("abort") else 60.0
        try:
            async with asyncio.timeout(leave_s):
                async with self.edge.client.stream("POST", path, json=body, headers=headers) as answer:
                    async for _ in answer.aiter_bytes():
                        pass
                    self.outcomes[str(answer.status_code)] += 1
        except TimeoutError:
            self.outcomes["left"] += 1
        except httpx.HTTPError:
            self.outcomes["cut"] += 1

    def _body(self, number: int, kind: str) -> tuple[str, dict[str, Any]]:
        dice = self._dice
        # Some prompts begin alike, some are long enough to be computed by a prefill replica.
        head = f"common text {number % 7} " * dice.choice((4, 40, 400))
        text = f"{head} question {number}"
        body: dict[str, Any] = {"model": "sim", "max_tokens": dice.randint(1, 60)}
        if kind == "prompts":
            return "/v1/completions", body | {"prompt": [text, f"another {number}", "third"], "stream": True}
        body["messages"] = [{"role": "user", "content": text}]
        if kind == "choices":
            body["n"] = 3
        return "/v1/chat/completions", body | {"stream": kind in ("stream", "abort", "choices")}

    async def counted(self) -> dict[str, dict[str, Any]]:
        """Usage by tenant, which is by request."""
        answer = await self.edge.admin.get("/v1/usage", params={"by": "tenant"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return {line["tenant"]: line for line in answer.json()["usage"]}

    async def settled(self) -> dict[str, dict[str, Any]]:
        """Usage once nothing is waited for any more."""

        async def done() -> bool:
            return (await self.edge.metrics())["pointsman_usage_open_requests"] == 0

        await until(self.edge.idle)
        await asyncio.sleep(1.0)  # engines report within 20 ms, and once in 200 ms at most
        await until(done)
        return await self.counted()


class Comparison:
    """Usage as counted and as engines wrote it, request by request: tenants are those of requests."""

    def __init__(
        self, counted: dict[str, dict[str, Any]], attempts: dict[str, Attempt], killed: dict[int, float]
    ) -> None:
        """killed: when engines were killed, by pid."""
        self.counted = counted
        self.wrong: dict[str, tuple[Figures, list[Figures], list[Figures]]] = {}
        """Requests whose count is not explained: what was counted, what engines that lived wrote, what those wrote that
        were killed."""
        self.late_s = 0.0
        """Time between the end of the earliest request whose report is lost and the death of its engine."""
        tags = {attempt.request_id: attempt.tag for attempt in attempts.values() if attempt.tag}
        by_tag: dict[str, list[tuple[int, Attempt]]] = {}
        for name, attempt in attempts.items():
            tag = tags[attempt.request_id.removesuffix(LEG_SUFFIX)]
            by_tag.setdefault(tag, []).append((int(name.partition(".")[0]), attempt))
        self.truth = {tag: sum_of(attempt.figures for _, attempt in found) for tag, found in by_tag.items()}
        """Tokens that engines spent on each request."""
        self.ended_s = {tag: max(attempt.ended_s or 0.0 for _, attempt in found) for tag, found in by_tag.items()}
        """Time at which each request ended last in an engine."""
        for tag, found in by_tag.items():
            lived = [attempt for pid, attempt in found if pid not in killed]
            doubtful = [(killed[pid], attempt) for pid, attempt in found if pid in killed]
            got = exact(counted[tag]) if tag in counted else Figures()
            missing = unreported(got, sum_of(attempt.figures for attempt in lived), doubtful)
            if missing is None:
                self.wrong[tag] = (
                    got,
                    [attempt.figures for attempt in lived],
                    [attempt.figures for _, attempt in doubtful],
                )
            else:
                ends = [killed_s - attempt.ended_s for killed_s, attempt in missing if attempt.ended_s is not None]
                self.late_s = max(self.late_s, *ends, 0.0)

    @property
    def incomplete(self) -> list[str]:
        """Requests some of whose tokens were not reported."""
        nothing = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "estimated": dict.fromkeys(NAMES, 0)}
        return [tag for tag, figures in self.truth.items() if exact(self.counted.get(tag, nothing)) != figures]

    def by_tenant(self) -> dict[str, dict[str, Figures]]:
        """For each real tenant: what engines did, what was counted exactly, and what by estimate."""
        found: dict[str, dict[str, Figures]] = {}
        for tag in self.truth | self.counted:
            sums = found.setdefault(tag.partition("-")[0], dict.fromkeys(("engines", "exact", "estimated"), Figures()))
            sums["engines"] = sums["engines"].plus(self.truth.get(tag, Figures()))
            if tag in self.counted:
                line = self.counted[tag]
                sums["exact"] = sums["exact"].plus(exact(line))
                sums["estimated"] = sums["estimated"].plus(Figures(*(line["estimated"][name] for name in NAMES)))
        return found


def sum_of(figures: Iterable[Figures]) -> Figures:
    return reduce(Figures.plus, figures, Figures())


def exact(line: dict[str, Any]) -> Figures:
    """The part of a line that is no estimate."""
    estimated = line["estimated"]
    return Figures(*(line[name] - estimated[name] for name in NAMES))


Doubtful = tuple[float, Attempt]
"""An attempt whose engine was killed, and when."""


def unreported(got: Figures, reported: Figures, doubtful: list[Doubtful]) -> list[Doubtful] | None:
    """The fewest attempts of killed engines without which what was counted is right; None where it is wrong."""
    for count in range(len(doubtful) + 1):
        for missing in combinations(range(len(doubtful)), count):
            there = (attempt.figures for at, (_, attempt) in enumerate(doubtful) if at not in missing)
            if got == reported.plus(sum_of(there)):
                return [doubtful[at] for at in missing]
    return None
