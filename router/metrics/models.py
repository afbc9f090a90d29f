"""Metrics by model and tenant, read from `ModelCounts` at scrape: Pointsman's own, and those of OpenTelemetry's
conventions for generative AI.

Both are made of the same counts. Pointsman's families have the labels `model` and `tenant`, those of the conventions
the names, labels and bounds that the conventions give a model server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pointsman.router.counts.histogram import Histogram
from pointsman.router.counts.models import (
    CONVENTION_DURATION_S,
    CONVENTION_PER_TOKEN_S,
    CONVENTION_TTFT_S,
    OTHER_STATUS,
    ModelCounts,
    ModelRow,
    RowKey,
)
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, histogram

PROVIDER = "pointsman"
"""`gen_ai_provider_name`: the conventions have no value for a fleet of one's own."""

OTHER_ERROR = "_OTHER"
"""`error_type` of the conventions for an error without a name of its own."""

PARTS = ("hold", "queue", "prefill", "remote-prefill")
"""Parts of a time to first token."""

Key = tuple[str, ...]

TOKENS: tuple[tuple[str, str, Callable[[ModelRow], int]], ...] = (
    (
        "prompt_tokens",
        "Prompt tokens of requests whose first token an engine reported, by model and tenant.",
        lambda row: row.prompt_tokens,
    ),
    (
        "cached_tokens",
        "Prompt tokens found in an engine's prefix cache, as engines reported with first tokens, by model and tenant.",
        lambda row: row.cached_tokens,
    ),
    (
        "cached_tokens_predicted",
        "Prompt tokens predicted to be in the prefix cache of the chosen replica, of requests whose first "
        "token an engine reported, by model and tenant.",
        lambda row: row.predicted_tokens,
    ),
    (
        "cached_tokens_reachable",
        "Prompt tokens predicted to be in the prefix cache of the candidate that holds most of them, of requests whose "
        "first token an engine reported, by model and tenant. pointsman_cached_tokens_predicted_total over it is the "
        "share of what could be had.",
        lambda row: row.reachable_tokens,
    ),
    (
        "output_tokens",
        "Output tokens of requests whose end an engine reported, by model and tenant.",
        lambda row: row.output_tokens,
    ),
)
"""Counters of tokens: name without prefix, HELP text, and the value of a row."""


class ModelCollector(FamilyCollector):
    """Reads the rows, and sums over what a family does not tell apart."""

    def __init__(self, counts: ModelCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Family]:
        yield from self._request_families()
        yield from self._token_families()
        yield from self._time_families()
        yield from self._convention_families()

    def _request_families(self) -> Iterator[Family]:
        requests: dict[Key, int] = {}
        for key, row in self._counts:
            for status, took in row.durations_s.items():
                at = (key.model, key.tenant, _class_of(status))
                requests[at] = requests.get(at, 0) + took.count
        yield from counter(
            "pointsman_model_requests",
            "Finished requests that a replica served, by requested model, tenant (the API key's; empty without API "
            "keys) and class of the status.",
            sorted(requests.items()),
            *("model", "tenant", "class"),
        )

    def _token_families(self) -> Iterator[Family]:
        for name, text, value in TOKENS:
            sums: dict[Key, int] = {}
            for key, row in self._counts:
                at = key.model, key.tenant
                sums[at] = sums.get(at, 0) + value(row)
            yield from counter(f"pointsman_{name}", text, sorted(sums.items()), "model", "tenant")

    def _time_families(self) -> Iterator[Family]:
        yield from histogram(
            "pointsman_time_to_first_token_seconds",
            "Time to the first token, by model and tenant: the time held at the edge, and the engine's own time as the "
            "engine reported; for endpoints that report nothing, as HAProxy's `first_token` filter measured.",
            self._summed(lambda row: row.ttft_s, lambda key: (key.model, key.tenant)),
            *("model", "tenant"),
        )
        yield from histogram(
            "pointsman_time_per_output_token_seconds",
            "Mean time between the output tokens of a request, as engines reported, by model and tenant.",
            self._summed(lambda row: row.per_token_s, lambda key: (key.model, key.tenant)),
            *("model", "tenant"),
        )
        parts: dict[Key, float] = {}
        saved: dict[str, float] = {}
        for key, row in self._counts:
            for part, seconds in zip(
                PARTS, (row.hold_s, row.queue_s, row.prefill_s, row.remote_prefill_s), strict=True
            ):
                parts[key.model, part] = parts.get((key.model, part), 0.0) + seconds
            saved[key.model] = saved.get(key.model, 0.0) + row.saved_s
        yield from counter(
            "pointsman_time_to_first_token_part_seconds",
            "Parts of the times to first token that engines reported, by model: hold (at the edge), prefill (computing "
            "the prompt, by the replica's learned prefill times), queue (the rest of the engine's time), "
            "remote-prefill (all of the engine's time where a prefill replica computes the prompt).",
            sorted(parts.items()),
            *("model", "part"),
        )
        yield from counter(
            "pointsman_prefill_saved_seconds",
            "Engine time that cached prompt tokens saved, by model: the time to compute them, by the replicas' learned "
            "prefill times.",
            sorted(saved.items()),
            "model",
        )

    def _convention_families(self) -> Iterator[Family]:
        labels = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        yield from histogram(
            "gen_ai_server_request_duration_seconds",
            "OpenTelemetry's gen_ai.server.request.duration: time from a request to the last byte of the response. "
            "`error_type` is the status of an error, empty without one.",
            self._durations(),
            *(*labels, "error_type"),
        )
        yield from histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "OpenTelemetry's gen_ai.server.time_to_first_token: as pointsman_time_to_first_token_seconds.",
            self._convention(lambda row: row.ttft_s, CONVENTION_TTFT_S),
            *labels,
        )
        yield from histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "OpenTelemetry's gen_ai.server.time_per_output_token: as pointsman_time_per_output_token_seconds.",
            self._convention(lambda row: row.per_token_s, CONVENTION_PER_TOKEN_S),
            *labels,
        )

    def _convention(
        self, of: Callable[[ModelRow], Histogram], bounds: tuple[float, ...]
    ) -> Iterator[tuple[Key, Histogram]]:
        for key, summed in self._summed(of, lambda key: (key.operation, PROVIDER, key.model)):
            yield key, summed.coarser(bounds)

    def _durations(self) -> Iterator[tuple[Key, Histogram]]:
        sums: dict[Key, Histogram] = {}
        for key, row in self._counts:
            for status, took in row.durations_s.items():
                _add(sums, (key.operation, PROVIDER, key.model, _error_of(status)), took)
        for at, summed in sorted(sums.items()):
            yield at, summed.coarser(CONVENTION_DURATION_S)

    def _summed(
        self, of: Callable[[ModelRow], Histogram], by: Callable[[RowKey], Key]
    ) -> Iterator[tuple[Key, Histogram]]:
        """Sums of one histogram of the rows; none of those that never observed anything."""
        sums: dict[Key, Histogram] = {}
        for key, row in self._counts:
            _add(sums, by(key), of(row))
        return ((at, summed) for at, summed in sorted(sums.items()) if summed.count)


def _add(sums: dict[Key, Histogram], key: Key, more: Histogram) -> None:
    found = sums.get(key)
    if found is None:
        found = sums[key] = Histogram(more.bounds)
    found.add(more)


def _class_of(status: int) -> str:
    return f"{status // 100}xx" if status > 0 else "none"


def _error_of(status: int) -> str:
    if status == OTHER_STATUS:
        return OTHER_ERROR
    return str(status) if status >= 400 else ""
