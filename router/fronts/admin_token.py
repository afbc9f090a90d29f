"""The bearer token of the admin API, which engines show on the feed too.

`AdminToken` owns the comparison, which takes the same time for every wrong token, and what wrong ones cost: each is
counted, they are logged together once a second at most, and their answer is delayed. A delay holds a connection of the
peer that guesses and nothing else, so its price is his; how many answers are delayed at once is bounded.
"""

from __future__ import annotations

import asyncio
import hmac

import structlog

LOG_EVERY_S = 1.0
"""Wrong tokens within this time are one line in the log."""

DELAY_S = 0.25
"""Seconds before the answer to a wrong token: four guesses a second and connection."""

MAX_DELAYED = 64
"""Answers delayed at once. Beyond, they come at once: a token is to be long enough that guessing is hopeless at any
rate, and a peer that opens connections without end must not have them kept."""

log = structlog.get_logger(__name__)


class AdminToken:
    """The token that is expected; an empty one is none, and admits everybody."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.wrong = 0
        """Wrong or missing tokens since the start."""
        self._unlogged = 0
        self._peer = ""
        self._delayed = 0
        self._log_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"AdminToken(required={self.required}, wrong={self.wrong})"

    @property
    def required(self) -> bool:
        return bool(self._token)

    def admits(self, given: str, peer: str) -> bool:
        """Whether a token is the expected one; a wrong one is counted. `peer` is the address it came from."""
        if not self._token or hmac.compare_digest(given.encode(), self._token):
            return True
        self.wrong += 1
        self._unlogged += 1
        self._peer = peer
        if self._log_timer is None:
            self._log()
        return False

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
