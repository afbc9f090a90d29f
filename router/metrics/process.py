"""What a router exports of its own state of health."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.router.process.background import LOOP, BackgroundTasks
from pointsman.router.watch.readiness import Readiness
from pointsman.router.watch.state_file import LOADED, SAVED, StateKeeper


class ProcessCollector(Collector):
    """Turns what tasks, state keeper and readiness count into metric families at scrape."""

    def __init__(self, tasks: BackgroundTasks, readiness: Readiness, keeper: StateKeeper | None) -> None:
        """`keeper` is None where nothing is saved."""
        self._tasks = tasks
        self._readiness = readiness
        self._keeper = keeper

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the registry must not collect while the app is being built."""
        return []

    def collect(self) -> Iterator[Metric]:
        errors = CounterMetricFamily(
            "pointsman_background_errors",
            "Exceptions in background tasks of the router, by task; each is logged and the task continues.",
            labels=("task",),
        )
        for task, count in sorted(self._tasks.errors.items()):
            errors.add_metric((task,), count)
        yield errors
        degraded = GaugeMetricFamily(
            "pointsman_degraded",
            "1 while a part of the router is degraded and requests are served; `/readyz` has the cause.",
            labels=("part",),
        )
        keeper, impaired = self._keeper, set(self._readiness.degraded_parts())
        parts = impaired | (self._tasks.errors.keys() - {LOOP}) | ({LOADED, SAVED} if keeper is not None else set())
        for part in sorted(parts):
            degraded.add_metric((part,), part in impaired)
        yield degraded
        yield CounterMetricFamily(
            "pointsman_state_save_errors",
            "Failed writes of the state file; each is retried.",
            value=keeper.save_errors if keeper is not None else 0,
        )
        yield CounterMetricFamily(
            "pointsman_state_files_set_aside",
            "State files that could not be read at start and were renamed to *.bad; the router started without them.",
            value=keeper.set_aside if keeper is not None else 0,
        )
