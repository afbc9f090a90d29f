"""The reports of a simulated replica to routers: prefix keys from the bodies it serves, first tokens, ends, load.

`Reporter` joins the model's events with the requests they belong to and hands them to a `Publisher`. The keys are those
the router sees, made from the same bytes. Of a request with several prompts or choices the first prompt counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from pointsman.contract.events import EngineLoad, Finished, FirstToken, Handoffs
from pointsman.contract.prefix_keys import prefix_keys, prompt_start, scoped
from pointsman.engine.attribution import Attribution, KeyDepths
from pointsman.engine.disaggregation import unpack_prefix
from pointsman.engine.publisher import EngineFacts, EngineReadings, Publisher
from pointsman.engine.sim.blocks import Stored
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult
from pointsman.engine.transport import RouterTransport


class Reporter:
    """One simulated engine's reports, sent while its `publisher` runs."""

    def __init__(
        self,
        config: SimConfig,
        model: EngineModel,
        handoffs: Callable[[], Handoffs | None] = lambda: None,
        *,
        born_ms: int = 0,
    ) -> None:
        """born_ms: start of the replica in milliseconds since 1970, the same as in its registration."""
        self.attribution = Attribution()
        self._depths = KeyDepths()
        self._model = model
        self._block_size = model.config.block_size
        self.transports = [RouterTransport(admin, config.admin_token, config.replica_id) for admin in config.register]
        self.publisher = Publisher(
            self.transports,
            EngineFacts(
                epoch=uuid.uuid4().hex,
                born_ms=born_ms,
                capacity_tokens=model.config.blocks * model.config.block_size,
                block_tokens=self._block_size,
                adapter_slots=config.max_loras,
            ),
            EngineReadings(
                resident=self.attribution.resident,
                depths=self.attribution.depths,
                load=self._load,
                handoffs=handoffs,
                adapters=(lambda: model.adapters.loaded) if config.max_loras else lambda: None,
            ),
            reach=lambda admin: RouterTransport(admin, config.admin_token, config.replica_id),
        )

    def began(self, body: bytes, request: SimRequest, scope: int, handed: str = "") -> None:
        """Note a request whose body was read.

        `request`: its first sequence.
        `scope`: that of its keys.
        `handed`: the scoped keys that came with a prefill request, whose own body is not the one the router sees.
        """
        keys: Sequence[int]
        if handed:
            keys, prompt_bytes = unpack_prefix(handed)
        else:
            keys, prompt_bytes = scoped(prefix_keys(body), scope), len(body) - max(0, prompt_start(body))
        if keys:
            depths = self._depths.blocks(keys, prompt_bytes, request.prompt_tokens, self._block_size)
            self.attribution.begin(request.request_id, keys, depths, request.block_hashes)
            self._publish_keys()

    def stepped(self, result: StepResult) -> None:
        """Report a step of the model whose time is over."""
        attribution = self.attribution
        for event in result.events:
            if isinstance(event, Stored):
                attribution.stored(event.hashes, event.parent)
            else:
                attribution.removed(event.hashes)
        self._publish_keys()

    def first_token(self, request_id: str, prompt_tokens: int, cached_tokens: int, ttft_s: float) -> None:
        """Report that a request, by the id its client and router use, has its first token."""
        self.publisher.first_token(FirstToken(request_id, prompt_tokens, cached_tokens, ttft_s * 1000))

    def ended(self, sequence_id: str, finished: Finished) -> None:
        """Reports that a request ended, whole or cut; `sequence_id` is what the model called its first sequence."""
        self.attribution.finish(sequence_id)
        self.publisher.finished(finished)

    def _publish_keys(self) -> None:
        self.publisher.keys(*self.attribution.take())

    def _load(self) -> EngineLoad:
        stats = self._model.stats()
        return EngineLoad(
            running=stats.running,
            waiting=stats.waiting,
            queued_prefill_tokens=stats.queued_prefill_tokens,
            kv_usage=stats.kv_usage,
        )
