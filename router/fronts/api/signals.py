"""Signals in the admin API: the prefix index and the columns of load that policies decide by, for people who debug."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from pointsman.router.core import Core
from pointsman.router.fleet.replica import Replica
from pointsman.router.fronts.api.lists import JSONList
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.signal_types import ReplicaIndex, ReplicaLoad
from pointsman.router.kv.prefix_index import size_bytes
from pointsman.router.process.slices import in_slices


class SignalsFront:
    """Handlers of `/v1/index` and `/v1/load`."""

    def __init__(self, core: Core) -> None:
        self._replicas = core.replicas
        self._kv = core.kv
        self._load = core.load
        self._holds = core.holds

    async def get_index(self, request: Request) -> Response:
        index = self._kv.index
        return await self._answer(
            request,
            self._indexed,
            keys=len(index),
            limit=index.max_keys,
            expected=len(index.expectations),
            dropped=index.evicted_by_limit,
            bytes=size_bytes(index),
        )

    async def get_load(self, request: Request) -> Response:
        return await self._answer(
            request, self._loaded, in_flight=self._load.total_in_flight, held=len(self._holds.held)
        )

    async def _answer(self, request: Request, view: Callable[[Replica], object], **more: object) -> Response:
        """A page of views of the replicas, by id, beside some numbers of the whole."""
        page, next_ = paged(sorted(self._replicas, key=_id), request, key=_id)
        listed = JSONList()
        for replicas in in_slices(page):
            # A replica that left meanwhile has given its slot away.
            listed.add([view(replica) for replica in replicas if self._replicas.get(replica.id) is replica])
            await asyncio.sleep(0)
        return listed.answer("replicas", **more, next=next_)

    def _indexed(self, replica: Replica) -> ReplicaIndex:
        cursor = self._kv.cursors[replica.slot]
        return ReplicaIndex(
            replica=replica.id,
            keys=self._kv.index.held[replica.slot],
            reports=bool(cursor.epoch),
            in_step=cursor.in_step,
            block_tokens=cursor.block_tokens,
        )

    def _loaded(self, replica: Replica) -> ReplicaLoad:
        slot, load, columns = replica.slot, self._load, self._kv.columns
        cells = columns.cells
        capacity = cells.capacity[slot]
        known = capacity < math.inf
        return ReplicaLoad(
            replica=replica.id,
            in_flight=int(load.in_flight[slot]),
            reserved=int(load.reserved[slot]),
            foreign=int(load.foreign[slot]),
            elsewhere=int(load.elsewhere[slot]),
            outside=int(load.outside[slot]),
            in_flight_tokens=int(load.in_flight_tokens[slot]),
            waiting_tokens=int(cells.waiting[slot]),
            waiting_elsewhere_tokens=int(columns.waiting_elsewhere[slot]),
            prefill_ms=round(cells.prefill_ms[slot], 3),
            base_ms=round(cells.base_ms[slot], 3),
            per_token_ms=round(cells.per_token_ms[slot], 6),
            per_square_ms=cells.per_square_ms[slot],
            footprint_tokens=int(cells.footprint[slot]),
            capacity_tokens=int(capacity) if known else None,
            fill=round(cells.fill[slot], 4) if known else None,
        )


def _id(replica: Replica) -> str:
    return replica.id
