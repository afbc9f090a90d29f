"""Metrics of aliases: the versions beside each other, and what rollouts cost. Read at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.core import Core
from pointsman.router.counts.histogram import Histogram
from pointsman.router.counts.requests import SERVED_BOUNDS_S
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram

MAX_SHOWN = 64
"""Aliases that have series of their own, those that were made first; the others are counted together."""

OTHER = "other"
"""Label of aliases beyond those, and of their versions."""

Key = tuple[str, str]


class AliasCollector(FamilyCollector):
    """Reads the table of aliases and the records of their versions. Without aliases no family has a series."""

    def __init__(self, core: Core) -> None:
        self._aliases = core.aliases
        self._versions = core.versions

    def collect(self) -> Iterator[Family]:
        aliases = self._aliases
        shown = dict.fromkeys(list(aliases.by_name)[:MAX_SHOWN])
        yield from gauge(
            "pointsman_alias_share",
            "Share of new sessions of an alias that begin with a version (model), 0 to 1.",
            [((name, model), share) for name in shown for model, share in aliases.by_name[name].shares().items()],
            *("alias", "model"),
        )
        yield from counter(
            "pointsman_alias_sessions_begun",
            "Sessions of an alias that began with a version (model) at this edge.",
            list(_summed(aliases.begun, shown).items()),
            *("alias", "model"),
        )
        yield from counter(
            "pointsman_alias_sessions_moved",
            "Times a session of an alias changed its version at this edge: after a rollback, when its version has no "
            "replica left, or because a tester asked for another one.",
            list(self._by_alias(aliases.moved, shown).items()),
            "alias",
        )
        yield from counter(
            "pointsman_rollout_recomputed_tokens",
            "Prompt tokens that were computed again because of a rollout, as predicted: the fleet held them for "
            "another version of the alias than the one that serves the request.",
            list(self._by_alias(aliases.recomputed, shown).items()),
            "alias",
        )
        yield from self._requests(shown)

    def _requests(self, shown: dict[str, None]) -> Iterator[Family]:
        arms = {key: record.arm for key, record in self._versions.records.items()}
        requests = _summed({key: arm.requests for key, arm in arms.items()}, shown)
        errors = _summed({key: arm.errors for key, arm in arms.items()}, shown)
        times: dict[Key, Histogram] = {}
        for key, arm in arms.items():
            label = _label(key, shown)
            if label == key:
                times[label] = arm.ttft_s
            else:
                times.setdefault(label, Histogram(SERVED_BOUNDS_S)).add(arm.ttft_s)
        yield from counter(
            "pointsman_alias_requests",
            "Requests for an alias that ended, by the version (model) that served them.",
            list(requests.items()),
            *("alias", "model"),
        )
        yield from counter(
            "pointsman_alias_errors",
            "Requests for an alias that failed (5xx, or cut by the replica), by version (model).",
            list(errors.items()),
            *("alias", "model"),
        )
        yield from histogram(
            "pointsman_alias_ttft_seconds",
            "Time to first token of requests for an alias, by version (model).",
            list(times.items()),
            *("alias", "model"),
        )

    def _by_alias(self, counts: dict[str, int], shown: dict[str, None]) -> dict[str, int]:
        found = dict.fromkeys(shown, 0)
        for name in self._aliases.by_name:
            label = name if name in shown else OTHER
            found[label] = found.get(label, 0) + counts.get(name, 0)
        return found


def _label(key: Key, shown: dict[str, None]) -> Key:
    return key if key[0] in shown else (OTHER, OTHER)


def _summed(counts: dict[Key, int], shown: dict[str, None]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for key, count in counts.items():
        label = _label(key, shown)
        found[label] = found.get(label, 0) + count
    return found
