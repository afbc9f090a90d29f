"""State for a restart on the same host, written to disk when it changes.

`StateKeeper` owns the schedule. Changes close to each other are saved once, and written beside the event loop: a disk
may take longer to sync than a lookup may take. A disk that does not take the state is tried again until it does. A
state file that cannot be read is set aside, and the router starts without it: a router that serves and says that it is
degraded is worth more than one that refuses to start over what engines will tell it again within seconds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from pointsman.contract.backoff import Backoff
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import PolicyControl
from pointsman.router.errors import LimitError, StateFileError
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.saved import SavedState, StateFile
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.saving import Saving

SAVE_DELAY_S = 0.2
"""Changes of the registry within this time are saved once."""

MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
"""Between tries while the disk does not take the state."""

LOADED = "state file"
SAVED = "saving state"
"""Parts that `/readyz` says are degraded."""

log = structlog.get_logger(__name__)


class StateKeeper:
    """Registrations and the live policy, in a file."""

    def __init__(
        self, file: StateFile, *, replicas: ReplicaRegistry, policy: PolicyControl, readiness: Readiness
    ) -> None:
        self._file = file
        self._replicas = replicas
        self._policy = policy
        self._saving = Saving("state", file, loaded=LOADED, saved=SAVED, readiness=readiness)
        self._changed = asyncio.Event()

    @property
    def save_errors(self) -> int:
        """Writes that the disk did not take."""
        return self._saving.errors

    @property
    def set_aside(self) -> int:
        """Files that could not be read."""
        return self._saving.set_aside_files

    def load(self, now_s: float) -> None:
        """Takes over what was saved; nothing where that cannot be read."""
        try:
            saved = self._file.load()
        except StateFileError as error:
            self._saving.set_aside(error)
            return
        for replica in saved.replicas:
            try:
                self._replicas.restore(replica, now_s)
            except LimitError as error:
                log.error("saved replicas left out", error=str(error))
                break
        self._policy.restore(saved.policy, saved.configured_policy, saved.policy_revisions)
        if saved.replicas:
            log.info("state restored", replicas=len(saved.replicas), policy=self._policy.document["policy"])

    def changed(self) -> None:
        """There is something to save."""
        self._changed.set()

    async def run(self) -> None:
        """Saves what changes until cancelled; nothing is being written any more then."""
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            await self._changed.wait()
            await asyncio.sleep(SAVE_DELAY_S)
            self._changed.clear()
            if await self._saving.write(self._file.save, self._state()):
                backoff.reset()
            else:
                self._changed.set()
                await backoff.pause()

    def save(self) -> None:
        """Saves the state of the moment, at once."""
        self._saving.write_now(self._file.save, self._state())

    def _state(self) -> SavedState:
        policy = self._policy
        return SavedState(
            replicas=self._replicas.saved(),
            policy=policy.put_live,
            configured_policy=policy.configured if policy.put_live is not None else None,
            policy_revisions=policy.history.saved(),
        )


def build_state_keeper(state_file: str, core: Core, *, readiness: Readiness) -> StateKeeper | None:
    """Build the keeper of a router's state; None where the settings name no file."""
    if not state_file:
        return None
    file = StateFile(Path(state_file))
    return StateKeeper(file, replicas=core.replicas, policy=core.policy, readiness=readiness)
