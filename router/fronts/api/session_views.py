"""Sessions as the admin API shows them: pins and conversations of one name as one thing.

A session id that a client sends names a pin (policies that pin sessions), a conversation (policies that go by KV), or
both. A conversation without an id is named by a key of its prompt, a number; people write it as `#` and hexadecimal
digits. Where tenants are isolated, tenant and id make the name.
"""

from __future__ import annotations

import re

from pointsman.router.core import Core
from pointsman.router.decide.features import TENANT_END
from pointsman.router.fronts.api.session_types import SessionView
from pointsman.router.kv.conversation import Conversation, Name, Phase
from pointsman.router.process.clock import Clock
from pointsman.router.process.moments import moment

_PROMPT_KEY = re.compile(r"#[0-9a-f]{16}")

_STATES = {
    Phase.UNDER_WAY: "under-way",
    Phase.ELSEWHERE: "under-way",
    Phase.PAUSING: "pausing",
    Phase.DORMANT: "dormant",
}


def written(name: Name) -> str:
    """A name of the tables as people write it, and as lists are sorted."""
    return name if isinstance(name, str) else f"#{name:016x}"


class SessionViews:
    """The one maker of `SessionView`."""

    def __init__(self, core: Core, clock: Clock) -> None:
        self._core = core
        self._clock = clock

    def named(self, key: str, tenant: str) -> Name | None:
        """Find the name of a session in the tables; None where none is known by that key."""
        name = f"{tenant}{TENANT_END}{key}" if tenant else key
        if self.knows(name):
            return name
        if not tenant and _PROMPT_KEY.fullmatch(key) and self.knows(number := int(key[1:], 16)):
            return number
        return None

    def knows(self, name: Name) -> bool:
        """Whether there is a session of that name: a conversation, or a pin that decisions follow."""
        return name in self._core.kv.conversations.by_name or self.pin(name) is not None

    def pin(self, name: Name) -> tuple[str, int, float] | None:
        """The pin of a session that decisions follow; None without one. A policy that pins none leaves those of an
        earlier one alone."""
        sessions = self._core.sessions
        if not isinstance(name, str) or not (self._core.pipeline.pins or name in sessions.ordered):
            return None
        return sessions.state(name)

    def home(self, name: Name) -> str:
        """Id of the replica that a session lives on; empty where the session is not known."""
        pin = self.pin(name)
        if pin is not None:
            return pin[0]
        known = self._core.kv.conversations.by_name.get(name)
        return known.home if known is not None else ""

    def view(self, name: Name) -> SessionView | None:
        """One session at this moment; None for one that is not known, or no longer."""
        known, pin, now_s = self._core.kv.conversations.by_name.get(name), self.pin(name), self._clock()
        if known is None and pin is None:
            return None
        tenant, _, key = written(name).rpartition(TENANT_END)
        moments_s = ([] if known is None else [known.seen_s]) + ([] if pin is None else [pin[2]])
        seen_s = max(moments_s)
        return SessionView(
            key=key,
            tenant=tenant,
            replica=self.home(name),
            state=_STATES[known.phase] if known is not None else "pinned",
            moving=name in self._core.sessions.ordered,
            pinned=pin is not None and self._core.pipeline.pins,
            tokens=None if known is None else known.tokens,
            turns=None if known is None else known.turn,
            in_flight=None if known is None else known.in_flight,
            last_active=moment(seen_s, now_s),
            idle_s=round(max(0.0, now_s - seen_s), 3),
            idle_timeout_left_s=self._idle_timeout_left_s(known, now_s),
            forgotten_in_s=self._forgotten_in_s(known, pin, now_s),
        )

    def _idle_timeout_left_s(self, known: Conversation | None, now_s: float) -> float | None:
        if known is None or known.under_way:
            return None
        patience_s = self._core.kv.conversations.silence.patience_s if known.live else 0.0
        return round(max(0.0, known.seen_s + patience_s - now_s), 3)

    def _forgotten_in_s(
        self, known: Conversation | None, pin: tuple[str, int, float] | None, now_s: float
    ) -> float | None:
        if known is not None and known.under_way:
            return None
        ends_s = [pin[2] + self._core.pin_ttl_s] if pin is not None else []
        if known is not None:
            ends_s.append(known.seen_s + self._core.kv.conversations.silence.ttl_s)
        return round(max(0.0, max(ends_s) - now_s), 3)
