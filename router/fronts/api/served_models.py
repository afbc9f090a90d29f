"""Models in the admin API: which are served, by how many replicas in which state, with which adapters.

`GET /v1/models` of clients is another list (`pointsman.router.fronts.api.models`): cards in OpenAI's form, one a name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer
from pointsman.contract.registration import Role
from pointsman.router.core import Core
from pointsman.router.fleet.models import context_of
from pointsman.router.fleet.replica import Replica
from pointsman.router.fronts.api.served_model_types import AdapterView, ServedModel, ServedModelList
from pointsman.router.process.slices import in_slices


@dataclass(slots=True)
class _Seen:
    """One model, while the replicas are gone through."""

    states: Counter[str] = field(default_factory=Counter)
    serving: int = 0
    names: set[str] = field(default_factory=set)
    adapters: Counter[str] = field(default_factory=Counter)
    loaded: Counter[str] = field(default_factory=Counter)

    def add(self, replica: Replica, loaded: list[str]) -> None:
        self.states[replica.state] += 1
        self.serving += replica.eligible and replica.role is not Role.PREFILL
        self.names |= (replica.names or frozenset()) - replica.adapters
        self.adapters.update(replica.adapters)
        self.loaded.update(name for name in loaded if name in replica.adapters)


class ServedModelsFront:
    """Handler of `/v1/models` of the admin address."""

    def __init__(self, core: Core) -> None:
        self._replicas = core.replicas
        self._adapters = core.adapters
        self._catalog = core.catalog

    async def list_models(self, request: Request) -> Response:
        seen: dict[str, _Seen] = {}
        for replicas in in_slices(self._replicas):
            for replica in replicas:
                if self._replicas.get(replica.id) is replica:
                    seen.setdefault(replica.model, _Seen()).add(replica, self._adapters.loaded(replica.slot))
            await asyncio.sleep(0)
        contexts = {card["id"]: context_of(card) for card in self._catalog.cards()}
        models = [self._view(model, seen[model], contexts.get(model, 0)) for model in sorted(seen)]
        return json_answer(ServedModelList(models=models))

    def _view(self, model: str, seen: _Seen, context_tokens: int) -> ServedModel:
        return ServedModel(
            model=model,
            aliases=sorted(seen.names - {model}),
            context_tokens=context_tokens or None,
            replicas=dict(sorted(seen.states.items())),
            serving=seen.serving,
            adapters=[
                AdapterView(name=name, replicas=seen.adapters[name], loaded=seen.loaded[name])
                for name in sorted(seen.adapters)
            ],
        )
