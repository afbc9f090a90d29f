"""Metrics of the router's own health: background tasks, degraded parts, the state file, CPU time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import PAGESIZE
from pathlib import Path
from time import process_time

from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge
from pointsman.router.process.background import LOOP, BackgroundTasks
from pointsman.router.process.readiness import Readiness
from pointsman.router.watch.book_keeper import BookKeeper
from pointsman.router.watch.state_file import LOADED, SAVED, StateKeeper


class ProcessCollector(FamilyCollector):
    """Reads what tasks, state keeper and readiness count."""

    def __init__(
        self, tasks: BackgroundTasks, readiness: Readiness, keeper: StateKeeper | None, documents: BookKeeper | None
    ) -> None:
        """keeper, documents: None where state, or documents, are not saved."""
        self._tasks = tasks
        self._readiness = readiness
        self._keeper = keeper
        self._documents = documents

    def collect(self) -> Iterator[Family]:
        keeper, errors = self._keeper, self._tasks.errors
        impaired = set(self._readiness.degraded_parts())
        parts = impaired | (errors.keys() - {LOOP}) | ({LOADED, SAVED} if keeper is not None else set())
        yield from counter(
            "pointsman_background_errors",
            "Exceptions in background tasks of the router, by task; each is logged and the task continues.",
            sorted(errors.items()),
            "task",
        )
        yield from gauge(
            "pointsman_degraded",
            "1 while a part of the router is degraded and requests are served; `/readyz` has the cause.",
            ((part, part in impaired) for part in sorted(parts)),
            "part",
        )
        yield from counter(
            "pointsman_state_save_errors",
            "Failed writes of the state file; each is retried.",
            keeper.save_errors if keeper is not None else 0,
        )
        yield from counter(
            "pointsman_documents_save_errors",
            "Failed writes of the documents file (keys, tenants, aliases); each is retried.",
            self._documents.save_errors if self._documents is not None else 0,
        )
        yield from counter(
            "pointsman_state_files_set_aside",
            "State files that could not be read at start and were renamed to *.bad; the router started without them.",
            keeper.set_aside if keeper is not None else 0,
        )
        yield from counter("process_cpu_seconds", "CPU time of the router, user and system.", process_time())
        resident = resident_bytes()
        yield from gauge(
            "process_resident_memory_bytes",
            "Resident memory of the router; absent where the system does not tell.",
            [((), resident)] if resident else [],
        )


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes; 0 where there is no `/proc`."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * PAGESIZE
