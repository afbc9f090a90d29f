"""A core with replicas whose engines report, for tests of what a decision reads of their KV and what becomes of it."""

from __future__ import annotations

import random

from candidates import make_candidates
from invariants import check

from pointsman.contract.events import EngineEvents
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.kv.parts import Prompt

CHAIN = tuple(range(1000, 1040))


class ReportingFleet:
    """Three replicas that report, and their KV state."""

    def __init__(self, replicas: int = 3) -> None:
        self.core = Core({"policy": "kv_cost"}, rng=random.Random(1))
        self.kv, self.requests = self.core.kv, self.core.requests
        self.seqs: list[int] = []
        for slot in range(replicas):
            self.add_slot(f"r{slot}")
            self.tell(slot, snapshot=True, capacity_tokens=100_000)
        self.candidates = make_candidates({f"r{slot}": 0 for slot in range(replicas)})

    def add_slot(self, name: str, seq: int = 0) -> None:
        """A replica takes the next slot."""
        self.core.replicas.put(name, Registration(url="http://10.0.0.1:1"), ("10.0.0.1", 1), 0.0)
        self.seqs.append(seq)

    def tell(self, slot: int, *, epoch: str = "e", now_s: float = 0.0, **events: object) -> bool:
        """The next message of an engine; whether a snapshot is asked for."""
        self.seqs[slot] += 1
        message = EngineEvents(epoch=epoch, seq=self.seqs[slot], **events)  # type: ignore[arg-type]
        answer = self.core.engine_events(self.core.replicas.ids[slot], message, now_s)
        assert answer is not None
        return answer.resync

    def ask(self, request_id: str, keys: int = 0, *, slot: int | None = None, now_s: float = 0.0, **given: object):
        """A prompt of so many keys of the chain; placed if a slot is given."""
        prompt_bytes = BOUNDARIES[keys - 1] + 100 if keys else 100
        features = RequestFeatures(
            request_id=request_id, prefix_keys=CHAIN[:keys], **{"body_bytes": prompt_bytes, **given}  # type: ignore[arg-type]
        )  # fmt: skip
        prompt = self.kv.read(features, now_s)
        if slot is not None:
            self.place(features, prompt, slot, now_s)
        return prompt

    def place(self, features: RequestFeatures, prompt: Prompt, slot: int, now_s: float = 0.0) -> None:
        """A decision sent a prompt to a slot."""
        self.requests.reserve(features.request_id, slot, 100, now_s)
        self.requests.place(features, prompt, slot, self.candidates, now_s)
        check(self.core)

    def resident(self, prompt: Prompt) -> list[int]:
        return [prompt.resident.tokens(slot) for slot in range(len(self.seqs))]
