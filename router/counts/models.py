"""What requests of each model and tenant came to: times, statuses, tokens; counted in place.

`ModelCounts` owns one `ModelRow` for each model, tenant and operation. What always holds: at most `MAX_MODELS` models
and `MAX_TENANTS` tenants have rows of their own, and all further ones are counted as `other`, since names come from
clients. A model that nobody serves any more gives way to one that somebody does. A leaf: it knows no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pointsman.router.counts.histogram import Histogram

OTHER = "other"
"""Label of models, tenants and operations beyond the limits, and of paths that are no operation's."""

MAX_MODELS = 64
"""Models and adapters behind one edge that are told apart: each has some 60 samples a tenant on the metrics page."""

MAX_TENANTS = 64
"""Tenants (API keys) that are told apart."""

MAX_ROWS = 512
"""Pairs of model and tenant, by operation, that are told apart; beyond, a tenant of a model is `other`."""

MAX_STATUSES = 16
"""HTTP statuses of one row; a replica that invents more has them counted as one, `OTHER_STATUS`."""

OTHER_STATUS = -1
"""No status, which HAProxy calls -1, or one beyond `MAX_STATUSES`."""

CONVENTION_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
CONVENTION_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
CONVENTION_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds of OpenTelemetry's semantic conventions for generative AI (gen-ai-metrics, model server metrics)."""

TTFT_S = (*CONVENTION_TTFT_S, 20.0, 40.0, 80.0)
"""With the waits of long prompts and of requests held at the edge."""

PER_TOKEN_S = (0.0025, 0.005, *CONVENTION_PER_TOKEN_S)
"""With the pace of small models, which the convention has no bound for."""

DURATION_S = (*CONVENTION_DURATION_S, 163.84, 327.68, 655.36)

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""Operations of OpenTelemetry's conventions, by path."""


class RowKey(NamedTuple):
    """Counts of one row."""

    model: str
    tenant: str
    """Empty where no API keys are used."""
    operation: str


class ModelRow:
    """Counts of one model, tenant and operation."""

    __slots__ = (
        "cached_tokens",
        "durations_s",
        "hold_s",
        "output_tokens",
        "per_token_s",
        "predicted_tokens",
        "prefill_s",
        "prompt_tokens",
        "queue_s",
        "reachable_tokens",
        "remote_prefill_s",
        "saved_s",
        "ttft_s",
    )

    def __init__(self) -> None:
        self.ttft_s = Histogram(TTFT_S)
        self.per_token_s = Histogram(PER_TOKEN_S)
        self.durations_s: dict[int, Histogram] = {}
        """Durations by HTTP status, `OTHER_STATUS` included."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        """Prompt tokens that engines found cached."""
        self.predicted_tokens = 0
        """Prompt tokens that were predicted to be found."""
        self.reachable_tokens = 0
        """Prompt tokens predicted to be found at the candidate that holds most of them."""
        self.output_tokens = 0
        self.hold_s = 0.0
        """Part of the times to first token: held at the edge."""
        self.queue_s = 0.0
        """Part of the times to first token: in an engine, but not to compute the prompt."""
        self.prefill_s = 0.0
        """Part of the times to first token: to compute the prompt, by the replica's learned prefill times."""
        self.remote_prefill_s = 0.0
        """Part of the times to first token: of requests whose prompt a prefill replica computes, all in an engine."""
        self.saved_s = 0.0
        """Time to compute the tokens that were found cached, by the replicas' learned prefill times."""

    def duration(self, status: int) -> Histogram:
        """The histogram of durations of a status."""
        if status < 0 or (status not in self.durations_s and len(self.durations_s) >= MAX_STATUSES):
            status = OTHER_STATUS
        return self.durations_s.setdefault(status, Histogram(DURATION_S))


class ModelCounts:
    """Rows by model, tenant and operation."""

    def __init__(self, served: Callable[[str], bool] = lambda name: True) -> None:
        """served: whether something registered may serve a model of that name."""
        self._served = served
        self._rows: dict[tuple[str, str, str], ModelRow] = {}
        self._models: set[str] = set()
        self._tenants: set[str] = set()

    def __iter__(self) -> Iterator[tuple[RowKey, ModelRow]]:
        """Iterates over the rows as they are at the call."""
        return iter([(RowKey(*key), row) for key, row in self._rows.items()])

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, model: str, tenant: str, operation: str) -> ModelRow:
        """The row that counts a request; that of `OTHER` beyond the limits.

        operation: one of `OPERATIONS`, or `OTHER`.
        """
        row = self._rows.get((model, tenant, operation))
        return self._add(model, tenant, operation) if row is None else row

    def _add(self, model: str, tenant: str, operation: str) -> ModelRow:
        if model not in self._models:
            if len(self._models) >= MAX_MODELS and self._served(model):
                self._forget_one()
            if len(self._models) >= MAX_MODELS:
                model = OTHER
            else:
                self._models.add(model)
        if tenant not in self._tenants:
            if len(self._tenants) >= MAX_TENANTS or len(self._rows) >= MAX_ROWS:
                tenant = OTHER
            else:
                self._tenants.add(tenant)
        elif len(self._rows) >= MAX_ROWS and (model, tenant, operation) not in self._rows:
            tenant = OTHER
        key = (model, tenant, operation)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = ModelRow()
        return row

    def _forget_one(self) -> None:
        """Drops the rows of one model that nobody serves any more, if there is one."""
        for model in sorted(self._models):
            if not self._served(model):
                self._models.remove(model)
                self._rows = {key: row for key, row in self._rows.items() if key[0] != model}
                return
