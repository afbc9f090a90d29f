"""What a router restarted on the same host takes over: kept on disk while it changes.

`StateKeeper` owns the schedule. Changes close to each other are saved once, and written beside the event loop: a disk
may take longer to sync than a lookup may take.
"""

from __future__ import annotations

import asyncio

import structlog

from router.policy_control import PolicyControl
from router.state.replicas import ReplicaRegistry
from router.state.saved import StateFile
from router.state.schema import SavedState

SAVE_DELAY_S = 0.2
"""Changes of the registry within this time are saved once."""

log = structlog.get_logger(__name__)


class StateKeeper:
    """Registrations and the live policy, in a file."""

    def __init__(self, file: StateFile, *, replicas: ReplicaRegistry, policy: PolicyControl) -> None:
        self._file = file
        self._replicas = replicas
        self._policy = policy
        self._changed = asyncio.Event()

    def load(self, now_s: float) -> None:
        """Takes over what was saved. Raises StateFileError."""
        saved = self._file.load()
        for replica in saved.replicas:
            self._replicas.restore(replica, now_s)
        self._policy.restore(saved.policy, saved.configured_policy)
        if saved.replicas:
            log.info("state restored", replicas=len(saved.replicas), policy=self._policy.document["policy"])

    def changed(self) -> None:
        """There is something to save."""
        self._changed.set()

    async def run(self) -> None:
        """Saves what changes until cancelled; nothing is being written any more then."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(SAVE_DELAY_S)
            self._changed.clear()
            writing = asyncio.get_running_loop().run_in_executor(None, self._write, self._state())
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # else it might overtake the last state, which is saved next
                raise

    def save(self) -> None:
        """Saves the state of the moment, at once."""
        self._write(self._state())

    def _state(self) -> SavedState:
        policy = self._policy
        return SavedState(
            replicas=self._replicas.saved(),
            policy=policy.put_live,
            configured_policy=policy.configured if policy.put_live is not None else None,
        )

    def _write(self, state: SavedState) -> None:
        try:
            self._file.save(state)
        except OSError as error:
            log.error("state not saved", file=repr(self._file), error=str(error))
