"""Whether this router is ready to decide, and if not, why: each part that matters reports here under its name."""

from __future__ import annotations

from collections.abc import Callable, Collection


class Readiness:
    """Named conditions; ready when all hold. Parts set their own, or have them looked at when somebody asks."""

    def __init__(self, *names: str) -> None:
        self._missing: dict[str, str] = dict.fromkeys(names, "starting")
        self._watched: dict[str, Callable[[], str]] = {}
        self._degraded: dict[str, str] = {}
        self._watched_parts: dict[str, Callable[[], str]] = {}

    def __repr__(self) -> str:
        return f"Readiness({self.missing() or 'ready'})"

    def met(self, name: str) -> None:
        self._missing.pop(name, None)

    def lost(self, name: str, why: str) -> None:
        self._missing[name] = why

    def watch(self, name: str, why: Callable[[], str]) -> None:
        """Adds a condition that is looked at whenever somebody asks; `why` is empty while it holds."""
        self._watched[name] = why

    def degraded(self, name: str, why: str) -> None:
        """Requests are served, but not as well as they could be."""
        self._degraded[name] = why

    def restored(self, name: str) -> None:
        self._degraded.pop(name, None)

    def watch_part(self, name: str, why: Callable[[], str]) -> None:
        """Adds a part that is looked at whenever somebody asks for what is degraded; `why` is empty while it is well.
        Whatever it is has a metric and an alert of its own, so `degraded_parts` does not name it."""
        self._watched_parts[name] = why

    def degraded_parts(self) -> list[str]:
        """Names of the parts that are degraded."""
        return list(self._degraded)

    def impaired(self) -> list[str]:
        """`name: why` of each part that is degraded. It does not make the router unready: nobody else would serve its
        clients better."""
        reasons = self._degraded | {name: why() for name, why in self._watched_parts.items()}
        return [f"{name}: {why}" for name, why in reasons.items() if why]

    def missing(self, *, exclude: Collection[str] = ()) -> list[str]:
        """`name: why` of each condition that does not hold, but for those of `exclude`."""
        reasons = self._missing | {name: why() for name, why in self._watched.items()}
        return [f"{name}: {why}" for name, why in reasons.items() if why and name not in exclude]
