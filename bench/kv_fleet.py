"""A fleet in the middle of its work, for timing decisions that go by KV: a real pipeline over full state.

Every replica holds the system prompt (the first eighth of a prompt's keys) and serves some conversations, whose homes
hold all but the last two keys of their next prompts. Requests are in flight and prompts wait everywhere, live
conversations keep `USAGE` of the KV, and the index is no smaller than in life.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pointsman.contract.events import EngineEvents
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.pipeline import Pipeline

CONVERSATIONS = 256
OTHER_KEYS = 2_000
"""Keys a replica holds besides."""
MAX_OTHER_KEYS = 500_000
MEAN_LOAD = 12
USAGE = 0.6


@dataclass
class KVFleet:
    """A core in that state, and the next turn of each conversation."""

    core: Core
    turns: list[RequestFeatures]
    beginnings: list[RequestFeatures]

    @property
    def pipeline(self) -> Pipeline:
        return self.core.pipeline

    def undo(self, asked: list[RequestFeatures], now_s: float) -> None:
        """Ends what decisions began, so that the next round meets the same load."""
        for features in asked:
            self.core.requests.end(features.request_id, now_s)
        self.core.requests.expire(now_s + 10.0)
        self.core.kv.expire(now_s + 10.0)


def make_fleet(replicas: int, keys: int, policy: str = "kv_cost") -> KVFleet:
    dice = random.Random(5)
    core = Core({"policy": policy}, rng=random.Random(1))
    for number in range(replicas):
        url = f"http://127.0.0.1:{1024 + number}"
        core.replicas.put(f"replica-{number}", Registration(url=url), ("127.0.0.1", 1024 + number), 0.0)
    capacity = int(CONVERSATIONS * BOUNDARIES[keys - 1] / 4 / USAGE / replicas)
    head = [dice.getrandbits(64) for _ in range(keys // 8)]
    others = min(OTHER_KEYS, MAX_OTHER_KEYS // replicas)
    for slot in range(replicas):
        stored = head + [dice.getrandbits(64) for _ in range(others)]
        events = EngineEvents(epoch="1", seq=0, snapshot=True, stored=stored, capacity_tokens=capacity)
        core.engine_events(f"replica-{slot}", events, 0.0)
        for number in range(max(1, round(dice.gauss(MEAN_LOAD, 3)))):
            core.requests.reserve(f"busy-{slot}-{number}", slot, 2_000, 0.0)
        core.kv.backlog.add(slot, dice.randrange(1, 400), 0.0, reports=True)
    fleet = KVFleet(core, [], [])
    for number in range(CONVERSATIONS):
        chain = (*head, *(dice.getrandbits(64) for _ in range(keys - len(head))))
        size = BOUNDARIES[keys - 3] + 100
        before = RequestFeatures(
            request_id=f"before-{number}", session=f"session-{number}", body_bytes=size, prefix_keys=chain[:-2]
        )
        core.decide(before, 0.0)
        fleet.undo([before], 0.0)
        after = {"session": f"session-{number}", "body_bytes": BOUNDARIES[keys - 1] + 100, "prefix_keys": chain}
        fleet.turns.append(RequestFeatures(request_id=f"turn-{number}", **after))  # type: ignore[arg-type]
        other = (*head, *(dice.getrandbits(64) for _ in range(keys - len(head))))
        fleet.beginnings.append(
            RequestFeatures(request_id=f"new-{number}", body_bytes=BOUNDARIES[keys - 1] + 100, prefix_keys=other)
        )
    return fleet
