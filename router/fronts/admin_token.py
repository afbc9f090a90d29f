"""The bearer tokens of the admin API, which engines show on the feed too.

`AdminTokens` says whose token a request shows and what that one may do. Every wrong token takes the same time to
compare, and costs: each is counted, they are logged together once a second at most, and their answer is delayed. A
delay holds a connection of the peer that guesses and nothing else, so its price is his; how many answers are delayed at
once is bounded.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from pointsman.contract.tokens import TokenRole
from pointsman.router.fronts.token_file import TokenFile
from pointsman.router.process import clock
from pointsman.router.process.clock import Clock

LOG_EVERY_S = 1.0
"""Wrong tokens within this time are one line in the log."""

DELAY_S = 0.25
"""Seconds before the answer to a wrong token: four guesses a second and connection."""

MAX_DELAYED = 64
"""Answers delayed at once. Beyond, they come at once: a token is to be long enough that guessing is hopeless at any
rate, and a peer that opens connections without end must not have them kept."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The maker of a request: the name of the token, under which changes are recorded, and its roles."""

    name: str
    roles: frozenset[TokenRole]

    def may(self, allowed: Iterable[TokenRole]) -> bool:
        """Whether one of these roles is the caller's; empty asks for none."""
        needed = frozenset(allowed)
        return not needed or not needed.isdisjoint(self.roles)


ALL_ROLES = frozenset(TokenRole)

LOCAL = Caller("local", ALL_ROLES)
"""A program on this machine, where no token is set."""

ADMIN = Caller("admin", ALL_ROLES)
"""The bearer of `admin.token`."""


class AdminTokens:
    """The tokens that are expected; without any, everybody is admitted."""

    def __init__(self, token: str = "", listed: TokenFile | None = None, *, wall: Clock = clock.wall) -> None:
        """token: that of `admin.token`, which has every role; empty for none.
        listed: named tokens; None where no file is set."""
        self._token = token.encode()
        self._listed = listed
        self._wall = wall
        self.wrong = 0
        """Wrong or missing tokens since the start."""
        self._unlogged = 0
        self._peer = ""
        self._delayed = 0
        self._log_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"AdminTokens(required={self.required}, wrong={self.wrong})"

    @property
    def required(self) -> bool:
        """Whether a request must show a token."""
        return bool(self._token) or self._listed is not None

    def caller(self, given: str, peer: str) -> Caller | None:
        """The bearer of a token; None for a wrong or expired one, which is counted. `peer` is the address it came from.

        Where none is required, everybody is `LOCAL`.
        """
        caller = self._bearer(given)
        if caller is not None:
            return caller
        self.wrong += 1
        self._unlogged += 1
        self._peer = peer
        if self._log_timer is None:
            self._log()
        return None

    def still_admit(self, given: str, role: TokenRole) -> bool:
        """Whether a token that was admitted before still is one with this role; a wrong one is not counted."""
        caller = self._bearer(given)
        return caller is not None and caller.may((role,))

    def _bearer(self, given: str) -> Caller | None:
        if not self.required:
            return LOCAL
        if self._token and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._token):
            return ADMIN
        record = self._listed.find(given, self._wall()) if self._listed is not None else None
        return Caller(record.name, frozenset(record.roles)) if record is not None else None

    async def slow_down(self) -> None:
        """Delays the answer to a wrong token."""
        if self._delayed < MAX_DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(DELAY_S)
            finally:
                self._delayed -= 1

    def _log(self) -> None:
        """Logs what was counted since the last line, and looks again while there is something."""
        self._log_timer = None
        if self._unlogged:
            log.warning("wrong or missing admin token", count=self._unlogged, last_peer=self._peer)
            self._unlogged = 0
            self._log_timer = asyncio.get_running_loop().call_later(LOG_EVERY_S, self._log)
