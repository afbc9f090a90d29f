"""Stories as text: what happens to one router, line by line, and below a line what the router answered.

    == A replica that has part of the prompt is worth waiting for
    policy kv_cost
    replicas a b
    # Anything after # is a remark.
    stored b blocks=h1,h2
    route r1 blocks=h1,h2,h3
      -> b kv-prefix

A file holds stories, each opened by a line `== title`. `pytest tests/scenarios` compares answers, with `--rewrite` it
writes what came, and a person reads the diff. The router is the real `Core` on a virtual clock that only `wait` moves,
with dice of one seed; after every line its tables are validated.

Commands (options are `name=value`):

    replicas a b               each as by `up`
    up a [model=M] [role=prefill|decode] [kv=TOKENS] [adapters=x,y] [born=MS] [port=N]
    health a down              drain a            remove a
    restart a                  its engine starts over, with an empty cache
    resized a kv=TOKENS        it has room for so many tokens
    stored a blocks=h1,h2      evicted a blocks=h2          loaded a adapters=x
    route r1 [session=S] [model=M] [blocks=h1,h2] [tokens=N]    answers with where it goes and why
    many 12 [as for route]     so many requests `many-1`, ...; answers with each replica's share
    first r1                   finished r1 [tokens=N]           by its engine
    end r1 [on=b] [status=200] [ts=--] [retried]                by HAProxy
    answered 5 on=a [as for end]    so many requests, each routed and ended there
    hold r1                    answers `waits`, or as route     (the request routed last under that name)
    step                       answers with who waits no longer, and where each goes
    wait 5                     seconds; leases and reservations end meanwhile
    policy kv_cost             another policy is put live, by its name or its whole document: {policy: ..., ...}
    state                      answers with each replica's state, and its requests in flight where it has some
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from invariants import check

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration, Role, leg_id
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import SWEEP_INTERVAL_S, Core
from pointsman.router.fleet.replica import Health
from pointsman.router.requests.hold_queue import Held

TOKENS = 1_000_000
"""KV of a replica whose size the story does not say."""

BYTES_PER_TOKEN = 4


ANSWER = "  -> "
"""What an answer's line begins with."""


@dataclass
class Story:
    """One story of a file: its title and its lines, remarks, blank lines and answers included."""

    title: str
    lines: list[str]

    def __str__(self) -> str:
        return "\n".join((f"== {self.title}", *self.lines)) + "\n"


def read_stories(path: Path) -> list[Story]:
    """The stories of a file."""
    parts = path.read_text().split("== ")[1:]
    return [Story(part.partition("\n")[0], part.partition("\n")[2].rstrip("\n").split("\n")) for part in parts]


def write_stories(path: Path, stories: list[Story]) -> None:
    path.write_text("\n".join(map(str, stories)))


def play(story: Story) -> Story:
    """The story with what the router answers. Raises what a line raised, with a note that names it."""
    router = Router()
    lines: list[str] = []
    for line in story.lines:
        if line.startswith(ANSWER):
            continue
        lines.append(line)
        done = line.partition("#")[0].strip()
        if not done:
            continue
        try:
            lines += [ANSWER + answer for answer in router.do(done)]
            check(router.core)
        except Exception as error:
            error.add_note(f"{story.title}: {line}")
            raise
    return Story(story.title, lines)


class Router:
    """A `Core` with the engines around it, driven by lines."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(7))
        self.now_s = 0.0
        self._decided: dict[str, Decision] = {}
        self._asked: dict[str, RequestFeatures] = {}
        self._epochs: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()

    def do(self, line: str) -> list[str]:
        """Plays one line; the lines it is answered with."""
        command, _, rest = line.partition(" ")
        if command == "policy":
            self.core.policy.put({"policy": rest} if rest.isidentifier() else yaml.safe_load(rest))
            return []
        words = rest.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        act: Callable[..., list[str] | None] = getattr(self, f"do_{command}")
        return act(*names, **options) or []

    # Replicas

    def do_replicas(self, *names: str) -> None:
        for name in names:
            self.do_up(name)

    def do_up(self, name: str, *, kv: str = str(TOKENS), port: str = "", adapters: str = "", **given: str) -> None:
        number = int(port) if port else 8000 + len(self.core.replicas)
        registration = Registration(
            url=f"http://127.0.0.1:{number}",
            model=given.get("model", ""),
            role=Role(given.get("role", "both")),
            adapters=adapters.split(",") if adapters else [],
            born_ms=int(given.get("born", "0")),
        )
        self.core.replicas.put(name, registration, ("127.0.0.1", number), self.now_s)
        self._tell(name, snapshot=True, capacity_tokens=int(kv))

    def do_health(self, name: str, health: str) -> None:
        self.core.replicas.set_health(name, Health(health), self.now_s)

    def do_drain(self, name: str) -> None:
        self.core.replicas.drain(name, self.now_s)

    def do_remove(self, name: str) -> None:
        self.core.replicas.remove(name)

    def do_restart(self, name: str) -> None:
        self._epochs[name] += 1
        self._messages[name] = 0
        self._tell(name, snapshot=True, capacity_tokens=TOKENS)

    def do_stored(self, name: str, *, blocks: str) -> None:
        self._tell(name, stored=_keys(blocks))

    def do_evicted(self, name: str, *, blocks: str) -> None:
        self._tell(name, evicted=_keys(blocks))

    def do_resized(self, name: str, *, kv: str) -> None:
        self._tell(name, capacity_tokens=int(kv))

    def do_loaded(self, name: str, *, adapters: str = "", slots: str = "1") -> None:
        self._tell(name, adapters=adapters.split(",") if adapters else [], adapter_slots=int(slots))

    def _tell(self, name: str, **events: Any) -> None:
        """The next message of a replica's engine."""
        self._messages[name] += 1
        message = EngineEvents(epoch=f"e{self._epochs[name]}", seq=self._messages[name], **events)
        self.core.engine_events(name, message, self.now_s)

    # Requests

    def do_route(self, request: str, **given: str) -> list[str]:
        return [self._shown(self._route(request, **given))]

    def do_many(self, count: str, **given: str) -> list[str]:
        shares: Counter[str] = Counter()
        for number in range(1, int(count) + 1):
            decision = self._route(f"many-{len(self._decided)}-{number}", **given)
            shares[f"{decision.first or 'nobody'} {decision.reason}"] += 1
        return ["  ".join(f"{share} x{shares[share]}" for share in sorted(shares))]

    def _route(self, request: str, *, blocks: str = "", tokens: str = "", **given: str) -> Decision:
        keys = tuple(_keys(blocks)) if blocks else ()
        size = int(tokens) * BYTES_PER_TOKEN if tokens else (BOUNDARIES[len(keys) - 1] if keys else 400)
        features = RequestFeatures(request_id=request, prefix_keys=keys, body_bytes=size, **given)  # type: ignore[arg-type]
        decision = self.core.decide(features, self.now_s)
        self._asked[request], self._decided[request] = features, decision
        return decision

    def _shown(self, decision: Decision) -> str:
        """A decision as a line: where, why, and what else HAProxy is told."""
        parts = [decision.first or "nobody", str(decision.reason)]
        given = msgspec.structs.asdict(decision)
        shown = ("prefill", "pairing", "status", "retry_after_s", "hold_ms", "once", "model")
        parts += [f"{name}={given[name]}" for name in shown if given[name]]
        return " ".join(parts)

    def do_first(self, request: str) -> None:
        decision = self._decided[request]
        if decision.prefill:
            self._tell(decision.prefill, first=[FirstToken(leg_id(request))])
        self._tell(decision.first, first=[FirstToken(request)])

    def do_finished(self, request: str, *, tokens: str = "0") -> None:
        self._tell(self._decided[request].first, finished=[Finished(request, prompt_tokens=int(tokens))])

    def do_end(self, request: str, flag: str = "", *, on: str = "", status: str = "200", ts: str = "--") -> None:
        decision = self._decided[request]
        line = {
            "ev": "end", "id": request, "srv": on or decision.first or "<NOSRV>", "first": decision.first,
            "st": int(status), "ts": ts, "tr": 10 if ts == "--" else -1, "ta": 20,
            "reason": str(decision.reason), "routed": "1",
            "rc": "+1" if flag == "retried" else "0",
        }  # fmt: skip
        self.core.end_of_request.apply(json.dumps(line).encode(), self.now_s)

    def do_answered(self, count: str, **given: str) -> None:
        for _ in range(int(count)):
            request = f"answered-{len(self._decided)}"
            self._route(request)
            self.do_end(request, **given)

    def do_hold(self, request: str) -> list[str]:
        answer = self.core.hold(self._asked[request], self.now_s)
        return ["waits" if isinstance(answer, Held) else self._shown(answer)]

    def do_step(self) -> list[str]:
        lines = []
        for held, decision in self.core.step_held(self.now_s):
            self._decided[held.features.request_id] = decision
            lines.append(f"{held.features.request_id}: {self._shown(decision)}")
        return lines or ["nobody moves"]

    # Time, and a look around

    def do_wait(self, seconds: str) -> None:
        until_s = self.now_s + float(seconds)
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + SWEEP_INTERVAL_S)
            self.core.sweep(self.now_s)

    def do_state(self) -> list[str]:
        in_flight = self.core.load.in_flight
        return [
            "  ".join(
                f"{replica.id} {replica.state}" + (f" ({in_flight[replica.slot]})" if in_flight[replica.slot] else "")
                for replica in self.core.replicas
            )
        ]


def _keys(blocks: str) -> list[int]:
    """Prefix keys by the names of blocks: equal names are equal keys."""
    return [int.from_bytes(name.encode(), "big") for name in blocks.split(",")]
