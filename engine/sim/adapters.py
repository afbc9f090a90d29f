"""LoRA adapters in a modelled engine: so many slots in a batch, the one used longest ago makes room. Pure.

As in vLLM, a request whose adapter has no slot waits while slots are held by running sequences, and those behind it may
pass; loading happens inside a step and makes it longer for all.
"""

from __future__ import annotations


class AdapterSlots:
    """The adapters one batch may hold."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.loads = 0
        """Adapters loaded since the engine started."""
        self._running: dict[str, int] = {}  # loaded adapter -> sequences that run with it; used longest ago first

    @property
    def loaded(self) -> list[str]:
        """Adapters in slots, the one used longest ago first."""
        return list(self._running)

    @property
    def running(self) -> list[str]:
        """Adapters that sequences run with."""
        return [name for name, sequences in self._running.items() if sequences]

    def admits(self, name: str) -> bool:
        """Whether a sequence with this adapter can run; without one ("") it always can."""
        return not name or name in self._running or len(self.running) < self.slots

    def take(self, name: str) -> None:
        """Let an admitted sequence run with an adapter, which is loaded first in place of the one used longest ago."""
        if not name:
            return
        sequences = self._running.pop(name, None)
        if sequences is None:
            self.loads += 1
            if len(self._running) >= self.slots:
                del self._running[next(other for other, running in self._running.items() if not running)]
        self._running[name] = (sequences or 0) + 1

    def let_go(self, name: str) -> None:
        """Note that a sequence no longer runs with an adapter, which stays loaded."""
        if name:
            self._running[name] -= 1

    def drop(self, name: str) -> None:
        """Unload an adapter that is no longer served; while sequences run with it, it stays."""
        if not self._running.get(name, 1):
            del self._running[name]
