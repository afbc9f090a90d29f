"""Decisions as they end, for those who follow them and for the access log.

`DecisionFeed` takes ended records out of the `DecisionLog`, renders each once, and hands it on. It looks every
`STEP_S` while somebody follows, and renders at most `AT_ONCE` records before others have their turn: a lookup does not
wait for a reader. A follower gets all that ends from the moment on at which it joins. While nobody follows and there is
no access log, no record waits here and nothing is rendered.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.core import Core
from pointsman.router.decide.decision_filter import DecisionFilter
from pointsman.router.decide.decision_view import DecisionView, DecisionViews
from pointsman.router.journal.followers import Followers
from pointsman.router.process.clock import Clock
from pointsman.router.requests.decision_log import DecisionLog
from pointsman.router.requests.decision_record import DecisionRecord
from pointsman.router.settings import DecisionLogSettings
from pointsman.router.watch.access_log import AccessLog

STEP_S = 0.1
"""Seconds between two looks."""

AT_ONCE = 4
"""Records rendered without a break, which takes some 0.1 ms: a lookup may wait that long for readers."""


class EndedDecision(NamedTuple):
    """A decision whose request ended."""

    record: DecisionRecord
    data: bytes
    """View of the record, as JSON on one line."""


class DecisionFeed:
    """The source of ended decisions."""

    def __init__(
        self,
        core: Core,
        log: DecisionLog,
        *,
        clock: Clock,
        wall: Clock,
        hash_key: str = "",
        access_log: str = "",
    ) -> None:
        """Make the source of one router's ended decisions.

        hash_key: key of the hashes that stand for sessions and tenants; empty: they are shown as they are.
        access_log: path of the access log, `-` for standard output; empty for none.
        """
        self._core = core
        self.log = log
        self._views = DecisionViews(core.policy.policy_of, edge=lambda: core.edge, secret=hash_key)
        self._clock = clock
        self._wall = wall
        # From the moment on at which somebody follows: what ends before the next look is not missed.
        self.followers: Followers[EndedDecision] = Followers(lambda: log.follow(True))
        self.records: Followers[DecisionRecord] = Followers(lambda: log.follow(True))
        """Followers that want the records of ended decisions as they are: nothing is rendered for them."""
        self.access_log = AccessLog(access_log) if access_log else None
        self._encode = msgspec.json.Encoder().encode

    def view(self, record: DecisionRecord, *, detail: bool = False) -> DecisionView:
        """Return a decision as people read it.

        detail: whether to show candidates, exclusions and what would have changed the choice.
        """
        return self._views.view(record, self.since_1970_s, detail=detail)

    @property
    def since_1970_s(self) -> float:
        """Seconds to add to the clock of records to get seconds since 1970."""
        return self._wall() - self._clock()

    def shown(self, name: str) -> str:
        """Return a session or tenant as people see it."""
        return self._views.shown(name)

    def wall_s(self, record: DecisionRecord) -> float:
        """Return the time of a decision in seconds since 1970."""
        return record.at_s + self._wall() - self._clock()

    def wants(self, chosen: DecisionFilter, record: DecisionRecord) -> bool:
        """Return whether a record has all that a filter asks for."""
        return chosen.wants(record, self._views.shown)

    async def run(self) -> None:
        """Hands on what ends until cancelled."""
        while True:
            wanted = self._is_read or bool(self.records)
            if wanted != self.log.is_followed:
                self.log.follow(wanted)
            handed = AT_ONCE if wanted else 0
            while handed == AT_ONCE:
                handed = self.step()
                await asyncio.sleep(0)
            if self.access_log is not None:
                await self.access_log.flush()
            await asyncio.sleep(STEP_S)

    def step(self) -> int:
        """Hand on up to `AT_ONCE` ended decisions; the number of them."""
        records = self.log.take_ended(self._clock(), AT_ONCE, self._reports)
        for record in records:
            self.records.offer(record)
            if self._is_read:
                ended = self.ended(record)
                if self.access_log is not None:
                    self.access_log.add(ended.data)
                self.followers.offer(ended)
        return len(records)

    @property
    def _is_read(self) -> bool:
        return bool(self.followers) or self.access_log is not None

    def ended(self, record: DecisionRecord) -> EndedDecision:
        """Return a record with its view."""
        return EndedDecision(record, self._encode(self.view(record)))

    def close(self) -> None:
        """Write the last lines of the access log."""
        if self.access_log is not None:
            while self.step():
                pass
            self.access_log.close()

    def _reports(self, replica_id: str) -> bool:
        slot = self._core.replicas.slot_of(replica_id)
        return slot != NO_SLOT and self._core.kv.reports(slot)


def build_feed(core: Core, settings: DecisionLogSettings, *, clock: Clock, wall: Clock) -> DecisionFeed | None:
    """Build the source of a router's decisions; None for a router that keeps none."""
    if core.decisions is None:
        return None
    return DecisionFeed(
        core,
        core.decisions,
        clock=clock,
        wall=wall,
        hash_key=settings.hash_key,
        access_log=settings.access_log,
    )
