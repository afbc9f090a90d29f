"""Which LoRA adapters are loaded where, and where there is room for more.

`AdapterTable` owns one short list a slot: the adapters in an engine's slots (`--max-loras`), the one used longest ago
first. An engine that tells replaces its list; between a decision and its word the adapter is *expected* there, so that
a burst for one adapter loads it once. Of an engine that does not tell, the list is made of decisions and of what
somebody saw running, and kept as short as the engine keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pointsman.policies.candidates import AdapterSignals, Column
from pointsman.router.fleet.slots import INITIAL_SLOTS, grown

EXPECTED_S = 10.0
"""Seconds for which an adapter is expected on a replica that reports its adapters; loading takes two at most."""

UNKNOWN_SLOTS = 4
"""Adapters an engine is taken to hold that does not say how many."""


class _Loaded:
    """One engine's list."""

    __slots__ = ("names", "slots", "told")

    def __init__(self) -> None:
        self.names: dict[str, float] = {}
        """Adapter -> until when it counts; inf but for the expected ones."""
        self.slots = 0
        self.told = False


class AdapterTable:
    """Loaded adapters by slot."""

    def __init__(self) -> None:
        self.room: Column = np.full(INITIAL_SLOTS, UNKNOWN_SLOTS, dtype=np.int64)
        """Adapters each slot could load without dropping one."""
        self._loaded: dict[int, _Loaded] = {}
        self._holders: dict[str, set[int]] = {}

    def __repr__(self) -> str:
        return f"AdapterTable({', '.join(f'{slot}:{list(own.names)}' for slot, own in self._loaded.items())})"

    def add_slot(self, slot: int) -> None:
        """A replica takes a slot."""
        if slot >= len(self.room):
            before = self.room
            self.room = np.full(grown(len(before), slot), UNKNOWN_SLOTS, dtype=np.int64)
            self.room[: len(before)] = before
        self._loaded[slot] = _Loaded()
        self._changed(slot)

    def clear_slot(self, slot: int) -> None:
        """Forget a slot's adapters, because the replica left or its engine restarted."""
        for name in list(self._loaded[slot].names):
            self._drop(slot, name)
        self._loaded[slot] = _Loaded()
        self._changed(slot)

    def loaded(self, slot: int) -> list[str]:
        """Adapters on a slot, expected ones too; the one used longest ago first."""
        return list(self._loaded[slot].names)

    def signals(self, name: str) -> AdapterSignals:
        """Where an adapter is, and where it could go."""
        return AdapterSignals(tuple(self._holders.get(name, ())), self.room)

    def set_loaded(self, slot: int, names: Sequence[str], slots: int, now_s: float) -> None:
        """The engine reported all adapters it has loaded, and how many it can hold (0: not reported)."""
        own = self._loaded[slot]
        own.told, own.slots = True, slots or own.slots
        expected = {name: until_s for name, until_s in own.names.items() if now_s < until_s < math.inf}
        for name in list(own.names):
            self._drop(slot, name)
        for name in names:
            self._put(slot, name, math.inf)
        for name, until_s in expected.items():
            if name not in own.names:
                self._put(slot, name, until_s)
        self._changed(slot)

    def observe_running(self, slot: int, names: Sequence[str], slots: int) -> None:
        """An engine that reports nothing was seen to run adapters, and can hold so many (0: unknown)."""
        own = self._loaded[slot]
        own.slots = slots or own.slots
        for name in names:
            self._use(slot, name)
        self._changed(slot)

    def placed(self, slot: int, name: str, now_s: float) -> None:
        """A decision sent a request for an adapter to a slot."""
        own = self._loaded[slot]
        if not own.told:
            self._use(slot, name)
        elif own.names.get(name) != math.inf:
            self._put(slot, name, now_s + EXPECTED_S)
        self._changed(slot)

    def expire(self, now_s: float) -> None:
        """Ends expectations that nothing came of; called a few times a second."""
        for slot, own in self._loaded.items():
            overdue = [name for name, until_s in own.names.items() if until_s <= now_s]
            for name in overdue:
                self._drop(slot, name)
            if overdue:
                self._changed(slot)

    def _use(self, slot: int, name: str) -> None:
        """The last used: what was used longest ago goes where the engine has no slot left."""
        own = self._loaded[slot]
        own.names.pop(name, None)
        self._put(slot, name, math.inf)
        while len(own.names) > (own.slots or UNKNOWN_SLOTS):
            self._drop(slot, next(iter(own.names)))

    def _put(self, slot: int, name: str, until_s: float) -> None:
        self._loaded[slot].names[name] = until_s
        self._holders.setdefault(name, set()).add(slot)

    def _drop(self, slot: int, name: str) -> None:
        del self._loaded[slot].names[name]
        holders = self._holders[name]
        holders.discard(slot)
        if not holders:
            del self._holders[name]

    def _changed(self, slot: int) -> None:
        own = self._loaded[slot]
        self.room[slot] = max(0, (own.slots or UNKNOWN_SLOTS) - len(own.names))
