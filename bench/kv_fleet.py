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
from pointsman.policies.registry import build_policy
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import Health, ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.requests import DecisionMetrics

CONVERSATIONS = 256
OTHER_KEYS = 2_000
"""Keys a replica holds besides."""
MAX_OTHER_KEYS = 500_000
MEAN_LOAD = 12
USAGE = 0.6


@dataclass
class KVFleet:
    """The pipeline, its state, and the next turn of each conversation."""

    pipeline: Pipeline
    load: LoadTable
    kv: KVState
    turns: list[RequestFeatures]
    beginnings: list[RequestFeatures]

    def undo(self, asked: list[RequestFeatures], now_s: float) -> None:
        """Ends what decisions began, so that the next round meets the same load."""
        for features in asked:
            self.load.release(features.request_id)
            self.kv.ended(features.request_id, now_s)
        self.kv.expire(now_s + 10.0)


def make_fleet(replicas: int, keys: int, policy: str = "kv_cost") -> KVFleet:
    dice = random.Random(5)
    load, kv = LoadTable(), KVState()

    def added(slot: int) -> None:
        load.add_slot(slot)
        kv.add_slot(slot, registry.ids[slot])

    registry = ReplicaRegistry(initial_health=Health.UP, on_added=added)
    for number in range(replicas):
        url = f"http://127.0.0.1:{1024 + number}"
        registry.put(f"replica-{number}", Registration(url=url), ("127.0.0.1", 1024 + number), 0.0)
    pipeline = Pipeline(
        build_policy({"policy": policy}),
        FleetState(
            replicas=registry,
            load=load,
            sessions=SessionTable(),
            kv=kv,
        ),
        metrics=DecisionMetrics(),
        rng=random.Random(1),
    )
    capacity = int(CONVERSATIONS * BOUNDARIES[keys - 1] / 4 / USAGE / replicas)
    head = [dice.getrandbits(64) for _ in range(keys // 8)]
    others = min(OTHER_KEYS, MAX_OTHER_KEYS // replicas)
    for slot in range(replicas):
        stored = head + [dice.getrandbits(64) for _ in range(others)]
        kv.apply(slot, EngineEvents(epoch="1", seq=0, snapshot=True, stored=stored, capacity_tokens=capacity), 0.0)
        for number in range(max(1, round(dice.gauss(MEAN_LOAD, 3)))):
            load.reserve(f"busy-{slot}-{number}", slot, 2_000, 0.0)
        kv.backlog.add(f"waits-{slot}", slot, dice.randrange(1, 400), 0.0, reports=True)
    fleet = KVFleet(pipeline, load, kv, [], [])
    for number in range(CONVERSATIONS):
        chain = (*head, *(dice.getrandbits(64) for _ in range(keys - len(head))))
        size = BOUNDARIES[keys - 3] + 100
        before = RequestFeatures(
            request_id=f"before-{number}", session=f"session-{number}", body_bytes=size, prefix_keys=chain[:-2]
        )
        pipeline.decide(before, 0.0)
        fleet.undo([before], 0.0)
        after = {"session": f"session-{number}", "body_bytes": BOUNDARIES[keys - 1] + 100, "prefix_keys": chain}
        fleet.turns.append(RequestFeatures(request_id=f"turn-{number}", **after))  # type: ignore[arg-type]
        other = (*head, *(dice.getrandbits(64) for _ in range(keys - len(head))))
        fleet.beginnings.append(
            RequestFeatures(request_id=f"new-{number}", body_bytes=BOUNDARIES[keys - 1] + 100, prefix_keys=other)
        )
    return fleet
