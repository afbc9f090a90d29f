"""Usage, kept beyond this process: in a file, and in Redis where edges share state.

`UsageKeeper` owns the schedule: rows that changed are written once in `SAVE_S`, in a thread and never while a request
waits. Whoever asks for usage gets what was written a moment before, of all edges where Redis has it. A router that is
killed loses what it counted in the last second; engines send their reports of that time again, but for requests whose
end was counted before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from pointsman.router.edges.store import StoreError
from pointsman.router.process.background import BackgroundTasks
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.process.saving import unbroken
from pointsman.router.requests.unsettled import UnsettledRequest
from pointsman.router.requests.usage_meter import UsageMeter
from pointsman.router.settings import Settings
from pointsman.router.tenancy.usage import DAY_H, HOUR_S, MAX_HOURS, UsageKey, UsageRow, Values
from pointsman.router.tenancy.usage_file import UsageFile, UsageFileError
from pointsman.router.tenancy.usage_report import UsageSums

if TYPE_CHECKING:
    from pointsman.router.edges.usage_store import UsageStore

SAVE_S = 1.0
"""Between two writes: a killed router loses the usage that it counted in that time."""

RETRY_S = 5.0
"""Between two tries to write what a store did not take."""

PART = "usage"
"""Condition of `/readyz` while usage is not kept."""

UNSETTLED = "unsettled"
"""Note in the file: requests that were not counted when the router stopped."""

log = structlog.get_logger(__name__)

_unsettled = msgspec.json.Decoder(list[UnsettledRequest]).decode

Rows = list[tuple[UsageKey, Values]]


class Grouped(NamedTuple):
    """Usage added up."""

    groups: list[tuple[tuple[Any, ...], Values]]
    complete: bool
    """False where the usage of other edges could not be read."""


class UsageKeeper:
    """The keeper of one router's usage."""

    def __init__(
        self,
        meter: UsageMeter,
        *,
        file: UsageFile | None,
        store: UsageStore | None,
        retention_days: int,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        """file, store: None where there is none."""
        self.life = secrets.token_hex(6)
        """Name of this life of the edge."""
        self.file = file
        self.store = store
        self.errors = 0
        """Writes that failed."""
        self._meter = meter
        self._ledger = meter.ledger
        self._retention_h = retention_days * DAY_H
        self._readiness = readiness
        self._clock = clock
        self._for_file: dict[int, UsageRow] = {}
        self._for_store: dict[int, UsageRow] = {}
        self._failing = ""
        self._retry_s = 0.0
        self._expired_hour = 0
        self._writing = asyncio.Lock()
        self._ledger.keeps_hours = file is None and store is None

    def start(self, stack: AsyncExitStack, tasks: BackgroundTasks) -> None:
        """Take over what is kept, and keep what is counted until the stack unwinds."""
        self.load()
        stack.push_async_callback(self.save)
        tasks.start(stack, "usage", self.run)

    def load(self) -> None:
        """Open the file, and take over how far engines' reports are in it. A file that cannot be read is set aside."""
        if self.file is None:
            return
        try:
            try:
                self.file.open()
            except UsageFileError as error:
                aside = self.file.set_aside()
                log.error("usage file set aside, it cannot be read", error=str(error), aside=str(aside))
                self.file.open()
            self._meter.cursors |= self.file.sources()
            self._take_unsettled(self.file)
            for rows in self.file.rows(self._ledger.hour - MAX_HOURS, self._ledger.hour + 1):
                self._ledger.restore(rows)
        except (UsageFileError, OSError) as error:
            log.error("usage is not kept in its file", error=str(error))
            self._readiness.degraded(PART, str(error))
            self.file = None
            self._ledger.keeps_hours = self.store is None
        else:
            self._meter.kept = dict(self._meter.cursors)

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        if self.file is None:
            await self._restore_from_store()
        while True:
            await asyncio.sleep(SAVE_S)
            await self.flush()

    async def save(self) -> None:
        """Write all that is counted and close: the router stops."""
        self._retry_s = 0.0
        await self.flush()
        rows = None if self.file is None else self._leave(self.file)
        if rows is None:
            self._meter.settle()
            await self.flush()
        if self.file is not None:
            self.file.close()
        if self.store is not None:
            if rows:
                with suppress(StoreError):
                    await self.store.write(self.life, rows)
            await self.store.close()

    def _leave(self, file: UsageFile) -> Rows | None:
        """Write the last rows together with what is not counted yet, while nothing else happens.

        Answers the rows; None where they could not be written.
        """
        changed, meter = self._ledger.take_changed(), self._meter
        rows = _values(changed)
        try:
            file.write(self.life, rows, meter.cursors, self._ledger.hour)
            file.leave_note(UNSETTLED, msgspec.json.encode(meter.unsettled()))
        except UsageFileError as error:
            log.error("requests in flight are counted by estimates", error=str(error))
            for row in changed:
                self._ledger.touch(row)
            return None
        return rows

    def _take_unsettled(self, file: UsageFile) -> None:
        note = file.take_note(UNSETTLED)
        try:
            self._meter.resume(_unsettled(note) if note else (), self._clock())
        except msgspec.MsgspecError as error:
            log.warning("requests in flight at the stop are not known", error=str(error))

    async def flush(self) -> bool:
        """Write what changed; whether all of it is written."""
        return await unbroken(self._flush())  # else it might overtake the last rows, which are written next

    async def _flush(self) -> bool:
        async with self._writing:
            for row in self._ledger.take_changed():
                if self.file is not None:
                    self._for_file[id(row)] = row
                if self.store is not None:
                    self._for_store[id(row)] = row
            done = await self._write_file()
            done &= await self._write_store()
            if not self._ledger.keeps_hours and not self._for_file and not self._for_store:
                self._ledger.forget_kept()
            return done

    async def _write_file(self) -> bool:
        file, meter, hour = self.file, self._meter, self._ledger.hour
        if file is None or (not self._for_file and meter.kept == meter.cursors):
            return True
        pending, self._for_file = self._for_file, {}
        rows, sources = _values(pending.values()), dict(meter.cursors)
        changed = {source: count for source, count in sources.items() if (meter.kept or {}).get(source) != count}
        expires = hour - self._retention_h if hour != self._expired_hour else None

        def write() -> None:
            file.write(self.life, rows, changed, hour)
            if expires is not None:
                file.expire(expires)

        try:
            await asyncio.get_running_loop().run_in_executor(None, write)
        except UsageFileError as error:
            self._for_file = pending | self._for_file
            self._failed(error)
            return False
        self._expired_hour = hour
        meter.kept = sources
        self._worked()
        return True

    async def _write_store(self) -> bool:
        if self.store is None or not self._for_store:
            return True
        if self._clock() < self._retry_s:
            return False
        pending, self._for_store = self._for_store, {}
        sources = dict(self._meter.cursors)
        try:
            await self.store.write(self.life, _values(pending.values()))
        except StoreError as error:
            # A store that comes back may be empty: all that is remembered here is written again.
            self._for_store = {id(row): row for row in self._ledger} | pending | self._for_store
            self._retry_s = self._clock() + RETRY_S
            self._failed(error)
            return False
        if self.file is None:
            self._meter.kept = sources
        self._worked()
        return True

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if str(error) != self._failing:
            log.error("usage is not kept", error=str(error))
        self._failing = str(error)
        self._readiness.degraded(PART, f"not kept: {error}")

    def _worked(self) -> None:
        if self._failing and not self._for_file and not self._for_store:
            log.info("usage is kept again")
            self._failing = ""
            self._readiness.restored(PART)

    async def _restore_from_store(self) -> None:
        if self.store is None:
            return
        hour = self._ledger.hour
        try:
            async for rows in self.store.read(hour - MAX_HOURS, hour + 1):
                self._ledger.restore(rows)
                await asyncio.sleep(0)
        except StoreError as error:
            log.warning("usage of earlier times is not known", error=str(error))

    # Reading

    async def rows(self, begin: int, end: int) -> AsyncIterator[Rows]:
        """Rows of the hours from `begin` to before `end`, some at a time. Raises StoreError or UsageFileError."""
        await self.flush()
        if self.store is not None:
            async for rows in self.store.read(begin, end):
                yield rows
        elif self.file is not None:
            chunks, loop = self.file.rows(begin, end), asyncio.get_running_loop()
            while (found := await loop.run_in_executor(None, next, chunks, None)) is not None:
                yield found
        else:
            yield self._remembered(begin, end)

    async def grouped(self, begin: int, end: int, by: Sequence[str]) -> Grouped:
        """Usage of the hours from `begin` to before `end`, added up. Raises UsageFileError."""
        complete = await self.flush()
        sums = UsageSums(by)
        if self.store is not None:
            try:
                async for rows in self.store.read(begin, end):
                    sums.add(rows)
                    await asyncio.sleep(0)
                return Grouped(sums.groups(), complete)
            except StoreError:
                complete, sums = False, UsageSums(by)
        if self.file is not None:
            grouped = self.file.grouped
            return Grouped(await asyncio.get_running_loop().run_in_executor(None, grouped, begin, end, by), complete)
        sums.add(self._remembered(begin, end))
        return Grouped(sums.groups(), complete)

    def _remembered(self, begin: int, end: int) -> Rows:
        return sorted((row.key, row.values) for row in self._ledger if begin <= row.key.hour < end)


def _values(rows: Any) -> Rows:
    return [(row.key, row.values) for row in rows]


def build_usage_keeper(settings: Settings, meter: UsageMeter, *, readiness: Readiness, clock: Clock) -> UsageKeeper:
    """Build the keeper of a router's usage. Opens nothing."""
    usage, shared, store = settings.usage, settings.shared, None
    if shared.url:
        # The client takes an eighth of a router's start: an edge alone goes without.
        from pointsman.router.edges.usage_store import UsageStore

        retention_s = usage.retention_days * DAY_H * HOUR_S
        store = UsageStore(shared.url, shared.name, tls_ca=shared.tls_ca, retention_s=retention_s)
    return UsageKeeper(
        meter,
        file=UsageFile(Path(usage.file)) if usage.file else None,
        store=store,
        retention_days=usage.retention_days,
        readiness=readiness,
        clock=clock,
    )
