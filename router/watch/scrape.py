"""Asks endpoints that tell nothing of themselves: `/metrics` for their load, `/v1/models` for what they may be called.

`Scraper` owns the asking: when, how many at once, how long and how much. What comes back goes where an engine's own
messages go (`KVState`, `LoadTable`) and to `ReplicaRegistry` and `ModelCatalog`. An engine that sends messages is asked
for its models alone.

The pace follows the work: an endpoint with requests is looked at every `interval_s`, an idle one every
`idle_interval_s`, and a fleet together at most `max_per_s` times a second, those longest unseen first. A look that
fails is counted and changes nothing: whether an endpoint is up is for HAProxy's checks to say, and requests are routed
on without what it would have told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus

import structlog

from pointsman.router.core import Core
from pointsman.router.errors import ScrapeError
from pointsman.router.fleet.replica import Health, Replica, ServedNames
from pointsman.router.process.clock import Clock
from pointsman.router.process.slices import in_slices
from pointsman.router.settings import ScrapeSettings
from pointsman.router.watch.engine_metrics import EngineReading, read_metrics
from pointsman.router.watch.http_get import NoAnswerError, http_get
from pointsman.router.watch.model_list import ModelList, read_models

MAX_PAGE_BYTES = 2 * 1024 * 1024
"""Of one answer; vLLM's `/metrics` has 50 KB, a card of a model 500 bytes."""

MAX_CONCURRENT = 64
"""Looks under way at once."""

ASK_AGAIN_S = 0.5
"""Between two questions for the models of a replica that nobody named and that has not answered."""

METRICS = "metrics"
MODELS = "models"

Wanting = tuple[float, Replica, str]
"""Time of an endpoint's last read, the endpoint, and what to read: METRICS or MODELS."""

log = structlog.get_logger(__name__)


class _Watched:
    """State that the scraper keeps of one endpoint; another address under the same id begins without state."""

    __slots__ = ("address", "asking", "metrics_at_s", "models_at_s", "problems", "silent", "started_s", "was_up")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.asking = False
        self.metrics_at_s = float("-inf")
        self.models_at_s = float("-inf")
        self.problems: dict[str, str] = {}
        """The last problem by what was asked, so that it is logged once."""
        self.silent = False
        """The endpoint did not answer the last read of its load."""
        self.started_s = 0.0
        self.was_up = False


class Scraper:
    """The loop that asks. Run `run` as a task."""

    def __init__(self, core: Core, *, settings: ScrapeSettings, clock: Clock) -> None:
        self._replicas = core.replicas
        self._load = core.load
        self._kv = core.kv
        self._adapters = core.adapters
        self._catalog = core.catalog
        self._settings = settings
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._budget = float(settings.max_per_s)
        self._budget_at_s = clock()
        self._wake = asyncio.Event()
        self.results: Counter[tuple[str, str]] = Counter()
        """Looks by what was asked (metrics, models) and how it went (ok, failed)."""

    def wake(self) -> None:
        """The registry changed: whom nobody named is asked at once."""
        self._wake.set()

    async def run(self) -> None:
        """Asks until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                wanting: list[Wanting] = []
                for replicas in in_slices(self._replicas):
                    wanting += self.wanting(replicas)
                    await asyncio.sleep(0)
                for replica, what in self.choose(wanting):
                    watched = self._watched[replica.id]
                    group.create_task(self._ask(replica, watched, what), name=f"scrape {replica.id}")
                try:
                    async with asyncio.timeout(min(self._settings.interval_s, ASK_AGAIN_S)):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    # When

    def wanting(self, replicas: Iterable[Replica]) -> list[Wanting]:
        """Return those of some replicas that should be read at this moment; one read at a time for each."""
        now_s = self._clock()
        settings, watched = self._settings, self._watched
        wanting: list[Wanting] = []
        for replica in replicas:
            seen = watched.get(replica.id)
            if seen is None or seen.address != (replica.host, replica.port):
                seen = watched[replica.id] = _Watched((replica.host, replica.port))
            up = replica.health is Health.UP
            if up and not seen.was_up:
                seen.models_at_s = min(seen.models_at_s, now_s - settings.models_interval_s)
            seen.was_up = up
            if seen.asking or replica.health is Health.DOWN:
                continue
            unnamed = replica.names is None
            if now_s - seen.models_at_s >= (ASK_AGAIN_S if unnamed else settings.models_interval_s):
                wanting.append((seen.models_at_s, replica, MODELS))
            elif not self._kv.reports(replica.slot):
                busy = self._load.in_flight[replica.slot] > 0 and not seen.silent
                if now_s - seen.metrics_at_s >= (settings.interval_s if busy else settings.idle_interval_s):
                    wanting.append((seen.metrics_at_s, replica, METRICS))
        return wanting

    def choose(self, wanting: list[Wanting]) -> list[tuple[Replica, str]]:
        """Return the endpoints to read now, and what: as many of those that want it as may be read at once, those first
        that were not read for longest."""
        watched = self._watched
        for gone in [replica_id for replica_id in watched if self._replicas.get(replica_id) is None]:
            del watched[gone]
        due = [want for want in wanting if want[1].id in watched]
        due.sort(key=lambda want: want[0])
        del due[self._room(self._clock()) :]
        self._budget -= len(due)
        for _, replica, _ in due:
            watched[replica.id].asking = True
        return [(replica, what) for _, replica, what in due]

    def _room(self, now_s: float) -> int:
        per_s = self._settings.max_per_s
        self._budget = min(float(per_s), self._budget + (now_s - self._budget_at_s) * per_s)
        self._budget_at_s = now_s
        asking = sum(watched.asking for watched in self._watched.values())
        return max(0, min(int(self._budget), MAX_CONCURRENT - asking))

    # How

    async def _ask(self, replica: Replica, watched: _Watched, what: str) -> None:
        path = "/metrics" if what == METRICS else "/v1/models"
        try:
            status, body = await http_get(
                *watched.address, path, timeout_s=self._settings.timeout_s, max_bytes=MAX_PAGE_BYTES
            )
            if self._seen(replica) is not watched:
                return  # it left, or moved, while it was asked
            if what == METRICS:
                self._take_reading(replica, watched, read_metrics(_body_of(status, body)))
            else:
                self._take_models(replica, read_models(_body_of(status, body)))
            self.answered(replica, what, "")
        except ScrapeError as error:
            if what == MODELS and self._seen(replica) is watched:
                self._take_no_models(replica)
            self.answered(replica, what, str(error))
        except (_NotReadyError, NoAnswerError) as error:
            self.answered(replica, what, str(error))
        except Exception as error:  # what one endpoint answers must not end the scraping of all
            log.exception("scrape failed", replica=replica.id, what=what)
            self.answered(replica, what, f"{type(error).__name__}: {error}")
        finally:
            watched.asking = False

    def answered(self, replica: Replica, what: str, problem: str) -> None:
        """A look ended, with a problem if there is one; nothing if the replica left meanwhile."""
        watched = self._seen(replica)
        if watched is None:
            return
        watched.asking = False
        self.results[what, "failed" if problem else "ok"] += 1
        if what == MODELS:
            watched.models_at_s = self._clock()
        else:
            watched.metrics_at_s = self._clock()
            watched.silent = bool(problem)
            if problem:
                # What was seen of the engine's own count is too old to keep requests away from it.
                self._load.observe_engine(replica.slot, 0)
        if problem and problem != watched.problems.get(what):
            log.info("endpoint does not tell", replica=replica.id, url=replica.url, what=what, problem=problem)
        watched.problems[what] = problem

    def _seen(self, replica: Replica) -> _Watched | None:
        """Return the state kept of a replica; None when the replica left or moved."""
        if self._replicas.get(replica.id) is not replica:
            return None
        watched = self._watched.get(replica.id)
        return watched if watched is not None and watched.address == (replica.host, replica.port) else None

    def _take_reading(self, replica: Replica, watched: _Watched, reading: EngineReading) -> None:
        kv, slot = self._kv, replica.slot
        if watched.started_s and reading.started_s != watched.started_s:
            kv.restarted(slot)
            self._adapters.clear_slot(slot)
        watched.started_s = reading.started_s
        kv.scraped(slot, reading.load, reading.capacity_tokens, reading.cached_tokens)
        if reading.adapters or reading.adapter_slots:
            self._adapters.observe_running(slot, reading.adapters, reading.adapter_slots)
        self._load.observe_engine(slot, reading.load.running + reading.load.waiting)

    def _take_models(self, replica: Replica, found: ModelList) -> None:
        self._catalog.put(replica.id, found.cards)
        if self._replicas.set_listed(replica.id, found.names):
            log.info("models listed", replica=replica.id, models=sorted(replica.names or ()))

    def _take_no_models(self, replica: Replica) -> None:
        """Note an answer that is no model list: the endpoint then counts as serving any model."""
        self._catalog.forget(replica.id)
        self._replicas.set_listed(replica.id, ServedNames())


class _NotReadyError(Exception):
    """Answered with an error of the server's own: it may tell later."""


def _body_of(status: int, body: bytes) -> bytes:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _NotReadyError(f"answered {status}")
    if status != HTTPStatus.OK:
        raise ScrapeError(f"answered {status}")
    return body
