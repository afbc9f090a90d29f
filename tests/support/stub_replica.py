"""A replica's actor without vLLM: registers, serves nothing, starts at once. For what Ray itself does."""

from __future__ import annotations

import json
import os
import sys

from pointsman.engine.vllm.replica.replica import Started, VllmReplica


class StubReplica(VllmReplica):
    """Starts without a model; its URL names its process."""

    async def _start(self, more: tuple[str, ...]) -> Started:
        url = f"http://127.0.0.1:1/{os.getpid()}"
        self._link.register(url)
        return Started(self._spec.id, url, (os.getpid(),), 0.0)

    async def drain(self, drain_s: float) -> int:
        self._stopping = True
        return 0

    async def end(self) -> None:
        await self.leave()
        self._over.set()

    async def leave(self) -> None:
        await self._link.withdraw()


def run_driver(settings: str) -> None:
    """A driver of stub replicas, with settings as JSON, in this process."""
    from pointsman.engine.vllm.errors import VllmError
    from pointsman.engine.vllm.fleet import actor, launch
    from pointsman.engine.vllm.fleet.config import decode_fleet

    actor.VllmReplica = StubReplica
    try:
        launch.run(decode_fleet(json.loads(settings)))
    except VllmError as error:
        sys.exit(f"error: {error}")
