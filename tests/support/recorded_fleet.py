"""A core whose decisions are recorded, with engines that report, for tests of records and of their views."""

from __future__ import annotations

import random
from typing import Any

from ring_line import line

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.decision_view import DecisionView, DecisionViews
from pointsman.router.requests.decision_log import DecisionLog
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.router.settings import DecisionLogSettings

CHAIN = tuple(range(1000, 1040))
NOON_S = 1_700_000_000.0
"""Seconds since 1970 at second 0 of the fleet's clock."""


class RecordedFleet:
    """A few replicas behind one core, under `kv_cost` or another policy."""

    def __init__(self, *names: str, policy: str | dict[str, Any] = "kv_cost", **log: Any) -> None:
        document = {"policy": policy} if isinstance(policy, str) else policy
        config = CoreConfig(decision_log=DecisionLogSettings(**log))
        self.core = Core(document, rng=random.Random(1), config=config)
        self.seqs: dict[str, int] = {}
        for name in names or ("a", "b"):
            self.add(name)
        self.views = DecisionViews(self.core.policy.policy_of)

    @property
    def log(self) -> DecisionLog:
        assert self.core.decisions is not None
        return self.core.decisions

    def add(self, name: str, **registration: Any) -> None:
        self.core.replicas.put(name, Registration(url="http://10.0.0.1:1", **registration), ("10.0.0.1", 1), 0.0)
        self.seqs[name] = 0
        self.report(name, snapshot=True, capacity_tokens=100_000)

    def report(self, name: str, now_s: float = 0.0, **events: Any) -> None:
        self.seqs[name] += 1
        message = EngineEvents(epoch="e", seq=self.seqs[name], **events)
        assert self.core.engine_events(name, message, now_s) is not None

    def ask(self, request_id: str, keys: int = 0, now_s: float = 0.0, **given: Any) -> Decision:
        """A request whose prompt has so many keys of the chain."""
        size = BOUNDARIES[keys - 1] + 100 if keys else 4000
        features = RequestFeatures(request_id=request_id, prefix_keys=CHAIN[:keys], **{"body_bytes": size, **given})
        return self.core.decide(features, now_s)

    def answer(self, request_id: str, name: str, prompt: int = 1000, cached: int = 0, now_s: float = 0.5) -> None:
        """The engine reports the first token and the end."""
        self.report(name, now_s, first=[FirstToken(request_id, prompt, cached, 40.0)])
        self.report(name, now_s, finished=[Finished(request_id, prompt, 50, 400.0, "stop")])

    def end(self, request_id: str, name: str = "a", now_s: float = 1.0, **fields: Any) -> None:
        """HAProxy's line about the end of a request."""
        self.core.end_of_request.apply(line(id=request_id, srv=name, first=name, **fields), now_s)

    def record(self, request_id: str) -> DecisionRecord:
        record = self.log.get(request_id)
        assert record is not None, request_id
        return record

    def view(self, request_id: str, *, detail: bool = True) -> DecisionView:
        return self.views.view(self.record(request_id), NOON_S, detail=detail)
