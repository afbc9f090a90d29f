"""Which model each session asked for, for its requests that do not show it.

A conversation grows, and a client that sends `model` behind the prompt ends up with it behind the part of the body that
can be looked at. `SessionModels` remembers the model of each session's earlier requests, the sessions seen last, and
forgets nothing else: a session that asked for two models has none that can be told.
"""

from __future__ import annotations

MAX_SESSIONS = 65_536
"""About 12 MB. Only edges with several models remember any."""

_SEVERAL = ""


class SessionModels:
    """Session -> model, bounded; the session silent for longest goes first."""

    def __init__(self, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._max = max_sessions
        self._models: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return f"SessionModels({len(self._models)} of {self._max})"

    def asked(self, session: str, model: str) -> None:
        """A request of the session named this model; neither is empty."""
        before = self._models.pop(session, model)
        if len(self._models) >= self._max:
            del self._models[next(iter(self._models))]
        self._models[session] = model if before == model else _SEVERAL

    def is_known(self, session: str) -> bool:
        return session in self._models

    def model_of(self, session: str) -> str | None:
        """The one model the session asked for; None where it asked for several, or is not known."""
        return self._models.get(session) or None
