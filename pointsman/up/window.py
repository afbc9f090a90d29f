"""Body window of HAProxy, kept at least as large as the live policy needs.

HAProxy's buffers are sized when it is started, and a policy that goes by prompts may be put live afterwards. The router
saves the live policy in its state file; `WindowWatch` looks whether that changed, and has HAProxy reloaded with larger
buffers where they are too small. It never makes them smaller: nothing is lost by reading less of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from pointsman.policies.errors import PolicyError
from pointsman.policies.registry import build_policy_set
from pointsman.router.decide.body_needs import body_window
from pointsman.router.errors import RouterError
from pointsman.router.fleet.saved import StateFile

LOOK_S = 1.0
"""Between two looks at the state file's time of change: prompts are told apart a second or two after the policy."""

log = structlog.get_logger(__name__)


def saved_window(state_file: Path) -> int:
    """Bytes of a body that the policy in a state file goes by; 0 where it has none, or none that is known here.

    Raises StateFileError for a file that cannot be read.
    """
    document = StateFile(state_file).load().policy
    if document is None:
        return 0
    try:
        policies = build_policy_set(document)
    except PolicyError:
        return 0
    policies.close()
    return body_window(policies.needs)


class WindowWatch:
    """Looks at one edge's state file, and has its HAProxy reloaded when the saved policy wants a larger window."""

    def __init__(self, state_file: Path, *, rendered: Callable[[], int], reload: Callable[[], None]) -> None:
        """`rendered`: bytes of the window HAProxy was started with; `reload` renders its files anew."""
        self._state_file = state_file
        self._rendered = rendered
        self._reload = reload
        self._changed_ns = 0

    def look(self) -> None:
        """Has HAProxy reloaded if it must be. What cannot be read is logged, and looked at again once it changed."""
        try:
            changed_ns = self._state_file.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return
            wanted = saved_window(self._state_file)
        except FileNotFoundError:
            return
        except (OSError, RouterError) as error:
            log.warning("state file not read, HAProxy keeps its body window", error=str(error))
            wanted = 0
        self._changed_ns = changed_ns
        rendered = self._rendered()
        if wanted > rendered:
            log.info("HAProxy is reloaded with a larger body window", before=rendered, wanted=wanted)
            self._reload()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)
