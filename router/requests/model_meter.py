"""Times, tokens and statuses of requests by model and tenant, from what engines and HAProxy report of them.

`ModelMeter` writes `ModelCounts` and owns nothing. It looks requests up in the `RequestTable`, so a request that
another edge placed is passed over, though its engine reports it here too. It is asked before the table applies a report
or an end, and changes nothing that a decision reads.

A *time to first token* is the time for which the request was held at the edge, and the engine's own time from the
request's arrival there. Of endpoints that report nothing it is HAProxy's, where the first-token filter is on.
"""

from __future__ import annotations

from pointsman.contract.events import EngineEvents, FirstToken
from pointsman.contract.registration import LEG_SUFFIX
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.counts.models import OPERATIONS, OTHER, ModelCounts, ModelRow
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.parts import Placement
from pointsman.router.kv.state import KVState
from pointsman.router.requests.end_line import UNSET, Line
from pointsman.router.requests.request import Request
from pointsman.router.requests.table import RequestTable


class ModelMeter:
    """The writer of what requests of each model came to."""

    def __init__(self, requests: RequestTable, kv: KVState, replicas: ReplicaRegistry) -> None:
        self.counts = ModelCounts(replicas.memberships.serves)
        self._requests = requests
        self._kv = kv
        self._replicas = replicas

    def report(self, slot: int, events: EngineEvents) -> None:
        """The engine on a slot reported first tokens and ends."""
        requests = self._requests
        for first in events.first:
            request = requests.get(first.id)
            if request is not None:
                self._first_token(request, slot, first)
            elif first.id.endswith(LEG_SUFFIX):
                request = requests.get(first.id.removesuffix(LEG_SUFFIX))
                if request is not None and request.prefill is not None:
                    self._count_prompt(request.row or self._row(request, slot), slot, first, request.prefill.placement)
        for finished in events.finished:
            request = requests.get(finished.id)
            if request is not None:
                row = request.row or self._row(request, slot)
                tokens = finished.completion_tokens
                row.output_tokens += tokens
                # One that was aborted has no prompt; its pace may be that of a client that did not read.
                if tokens > 1 and finished.prompt_tokens and finished.decode_ms:
                    row.per_token_s.observe(finished.decode_ms / (1000 * (tokens - 1)))

    def ended(self, line: Line, slot: int) -> None:
        """HAProxy reported the end of a routed request that a replica served.

        slot: the replica's; NO_SLOT for one that left.
        """
        request = self._requests.get(line.id)
        row = request.row if request is not None else None
        if row is None:
            row = self._row(request, slot)
        duration = row.durations_s.get(line.st) or row.duration(line.st)
        duration.observe(line.ta / 1000 if line.ta > 0 else 0.0)
        if line.ttft != UNSET and line.ttft.isdecimal() and slot != NO_SLOT and not self._kv.reports(slot):
            row.ttft_s.observe(int(line.ttft) / 1000)

    def _row(self, request: Request | None, slot: int) -> ModelRow:
        """The row of a request that a slot serves; of one that was not placed here, the model is the replica's."""
        features = None if request is None else request.features
        if request is None or features is None:
            return self.counts.row(self._model_of(slot), "", OTHER)
        operation = OPERATIONS.get(features.path, OTHER)
        row = request.row = self.counts.row(features.model or self._model_of(slot), features.tenant, operation)
        return row

    def _model_of(self, slot: int) -> str:
        replica = None if slot == NO_SLOT else self._replicas.get(self._replicas.ids[slot])
        return OTHER if replica is None or not replica.model else replica.model

    def _first_token(self, request: Request, slot: int, first: FirstToken) -> None:
        row, engine_s, held_s = request.row or self._row(request, slot), first.ttft_ms / 1000, request.held_s
        if request.prefill is not None:  # its prompt is counted where it is computed
            row.remote_prefill_s += engine_s
        else:
            prefill_s = self._count_prompt(row, slot, first, request.placement)
            if prefill_s > engine_s:
                prefill_s = engine_s
            row.prefill_s += prefill_s
            row.queue_s += engine_s - prefill_s
        if engine_s:
            row.ttft_s.observe(held_s + engine_s)
            row.hold_s += held_s

    def _count_prompt(self, row: ModelRow, slot: int, first: FirstToken, placement: Placement | None) -> float:
        """Counts the prompt that a slot computed; the time that this takes by the slot's prefill times, in seconds."""
        prompt, cached = first.prompt_tokens, first.cached_tokens
        if not prompt:
            return 0.0
        row.prompt_tokens += prompt
        row.cached_tokens += cached
        if placement is not None:
            row.predicted_tokens += placement.cached
            row.reachable_tokens += placement.best
        cells = self._kv.columns.cells
        linear, square = cells.per_token_ms[slot], cells.per_square_ms[slot]
        uncached = prompt - cached
        prefill_ms = uncached * (linear + uncached * square)
        row.saved_s += (prompt * (linear + prompt * square) - prefill_ms) / 1000
        return (prefill_ms + cells.base_ms[slot]) / 1000
