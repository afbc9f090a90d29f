"""Whether this router is ready to decide, and if not, why: each part that matters reports here under its name."""

from __future__ import annotations


class Readiness:
    """Named conditions; ready when all hold. Parts set their own, the health front reads."""

    def __init__(self, *names: str) -> None:
        self._missing: dict[str, str] = dict.fromkeys(names, "starting")

    def __repr__(self) -> str:
        return f"Readiness({self.missing() or 'ready'})"

    def met(self, name: str) -> None:
        self._missing.pop(name, None)

    def lost(self, name: str, why: str) -> None:
        self._missing[name] = why

    def missing(self) -> list[str]:
        """`name: why` of each condition that does not hold."""
        return [f"{name}: {why}" for name, why in self._missing.items()]
