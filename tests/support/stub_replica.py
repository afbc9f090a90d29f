"""A replica's actor without vLLM: registers, serves nothing, starts at once. For what Ray itself does."""

from __future__ import annotations

import os

from engine.registration import Registration
from engine.vllm.replica import Started, VllmReplica


class StubReplica(VllmReplica):
    """Starts without a model; its URL names its process."""

    async def _start(self, more: tuple[str, ...]) -> Started:
        url = f"http://127.0.0.1:1/{os.getpid()}"
        self._registration = Registration(self._spec.admin, "", self._spec.id, url, self._spec.model)
        return Started(self._spec.id, url, (os.getpid(),), 0.0)

    async def drain(self, drain_s: float) -> int:
        self._stopping = True
        return 0

    async def end(self) -> None:
        await self.leave()
        self._over.set()

    async def leave(self) -> None:
        await self._deregister()
