"""Metrics of the admin API, read from its guard at scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from pointsman.router.metrics.families import FamilyCollector, counter


class AdminCollector(FamilyCollector):
    """Reads the guard's counts, and those of the files that are read again when they change."""

    def __init__(self, refused: Callable[[], Mapping[str, int]], file_errors: Callable[[], Mapping[str, int]]) -> None:
        self._refused = refused
        self._file_errors = file_errors

    def collect(self) -> Iterator[Metric]:
        yield from counter(
            "pointsman_admin_refused",
            "Requests to the admin API and engine feeds refused by a check of the sender: token (wrong or missing), "
            "role (a token without the role that the operation needs), host (a Host header of another machine), "
            "origin (a web page of another origin).",
            self._refused().items(),
            "check",
        )
        yield from counter(
            "pointsman_admin_file_errors",
            "Changes of a file of the admin API that could not be used, so that what was read before is in effect: "
            "admin tokens, admin certificate.",
            self._file_errors().items(),
            "file",
        )
