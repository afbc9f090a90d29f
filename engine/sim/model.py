"""The modelled engine: what vLLM's scheduler does with requests, blocks and time. Pure: no I/O, no clock, no dice.

`EngineModel` owns the waiting queue, the running batch and the block cache of one replica. Each `step` schedules as
vLLM 0.32 does by default (`vllm/v1/core/sched/scheduler.py`): running sequences first, in order, within
`max_num_batched_tokens`; then waiting ones, first come, first served, while their whole prompt would fit. Long prompts
are computed in chunks. When a running sequence finds no block, the youngest running one loses its blocks and goes back
to the head of the queue. The last token of a prompt is always computed, so a prompt that is resident to its end
recomputes its last block.

A step's outcome is visible `duration_s` after it began. Blocks filled by a step are findable at once, as in vLLM, which
caches them when it schedules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from pointsman.engine.sim.adapters import AdapterSlots
from pointsman.engine.sim.blocks import BlockCache, Lease, Removed, Stored
from pointsman.engine.sim.config import ModelConfig

QUIET_STEPS_MAX = 256
"""Steps planned ahead at once: planning costs a little for each, and an arrival throws the rest of a plan away."""


class SimRequest(msgspec.Struct, frozen=True, gc=False):
    """One sequence to compute."""

    request_id: str
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """Tokens it emits before it finishes, at least 1."""
    block_hashes: Sequence[int] = ()
    """Hash i names everything up to and including block i. May go on past the prompt, for the blocks that generation
    fills. A block without one is never found again."""
    external_tokens: int = 0
    """Prompt tokens whose KV comes from elsewhere with the request: held and not computed, but for the last token."""
    kept: bool = False
    """Whether the request's blocks are held after its end, until `let_go`."""
    adapter: str = ""
    """LoRA adapter it runs with."""
    priority: int = 0
    """The lower number goes first under priority scheduling."""


class StepResult(msgspec.Struct, gc=False):
    """Result of one call to `step`, visible `duration_s` later. Request ids are in scheduling order."""

    duration_s: float = 0.0
    steps: int = 0
    """Engine steps taken; 0: there was nothing to do."""
    emitted: list[str] = msgspec.field(default_factory=list)
    """Requests that emitted one token each step."""
    first: dict[str, int] = msgspec.field(default_factory=dict)
    """Requests of `emitted` whose first token it was, with their prompt tokens found in the cache."""
    finished: list[str] = msgspec.field(default_factory=list)
    """Requests of `emitted` whose last token this was; they have left the engine."""
    preempted: list[str] = msgspec.field(default_factory=list)
    prefill_tokens: int = 0
    """Prompt tokens computed, those recomputed after a preemption included."""
    events: list[Stored | Removed] = msgspec.field(default_factory=list)
    """Blocks that entered and left the cache, in order."""


class Stats(msgspec.Struct, kw_only=True):
    """A reading of the engine, in vLLM's terms. Counters run from the engine's start."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Held blocks over all blocks, 0 to 1."""
    queued_prefill_tokens: int = 0
    """Prompt tokens in the engine that are not computed yet. A waiting request counts in full: its hits are unknown."""
    prefix_queries: int = 0
    """Tokens looked up in the prefix cache."""
    prefix_hits: int = 0
    """Tokens found there."""
    prompt_tokens: int = 0
    """Prompt tokens of requests whose prefill is complete."""
    generation_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0


class _Sequence(msgspec.Struct, eq=False):
    """A request and how far it got. `computed` tokens have their KV; `known` tokens exist (prompt and emitted).

    It holds a lease while it runs. `prefilling` until `computed` has once caught up with `known` since it was admitted.
    """

    request: SimRequest
    request_id: str
    output_tokens: int
    known: int
    external: int
    arrival: int = 0  # Its number among those that came, in a model that goes by it.
    lease: Lease | None = None
    computed: int = 0
    emitted: int = 0
    cached: int = -1
    prefilling: bool = False


class EngineModel:
    """One replica's scheduler and cache."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.cache = BlockCache(config.blocks)
        self.adapters = AdapterSlots(config.adapter_slots)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._sequences: dict[str, _Sequence] = {}
        self._kept: dict[str, Lease] = {}
        self._prefilling = 0
        self._stuck = False  # The head of the queue was refused, and nothing was let go since.
        self._stats = Stats()

    def __len__(self) -> int:
        """Requests in the engine, running and waiting."""
        return len(self._sequences)

    def add(self, request: SimRequest) -> None:
        """Queue a request.

        Raises ValueError for an id that is in the engine, a token count below 1, or a sequence that could never fit:
        callers bound prompt and output by the context length first, as vLLM's front does.
        """
        if request.request_id in self._sequences:
            raise ValueError(f"request {request.request_id!r} is already in the engine")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.request_id!r}: prompt and output need at least one token each")
        blocks = -(-(request.prompt_tokens + request.output_tokens) // self.config.block_size)
        if blocks > self.config.blocks:
            raise ValueError(f"request {request.request_id!r} needs {blocks} of {self.config.blocks} blocks")
        prompt_tokens = request.prompt_tokens
        sequence = _Sequence(request, request.request_id, request.output_tokens, prompt_tokens, request.external_tokens)
        self._sequences[sequence.request_id] = sequence
        self._waiting.append(sequence)
        self._stats.queued_prefill_tokens += prompt_tokens
        if len(self._waiting) == 1 or self.config.adapter_slots:
            self._stuck = False

    def abort(self, request_id: str) -> bool:
        """Drop a request and let go of its blocks; False when it is not in the engine (it finished meanwhile)."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        if sequence.lease is None:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            self._release(sequence)
        self._set_computed(sequence, sequence.request.prompt_tokens)
        self._stuck = False
        self._stats.aborted += 1
        return True

    def let_go(self, request_id: str) -> bool:
        """Stop to hold the blocks of a finished request that was `kept`; False when none are held."""
        lease = self._kept.pop(request_id, None)
        if lease is None:
            return False
        self.cache.release(lease)
        self._stuck = False
        return True

    def stats(self) -> Stats:
        """The engine as it stands."""
        return msgspec.structs.replace(
            self._stats, running=len(self._running), waiting=len(self._waiting), kv_usage=self.cache.usage
        )

    def step(self) -> StepResult:
        """Schedule and compute one step. `steps` is 0 when there is nothing to compute."""
        result = StepResult()
        if not self._sequences:
            return result
        if self._only_decodes() and self.cache.available >= len(self._running):
            result.duration_s = self._decode(1, result)
            return result
        scheduled = self._schedule_running(result)
        loads = self.adapters.loads
        if self._waiting and not result.preempted:
            self._schedule_waiting(scheduled)
        if not scheduled:
            return result
        result.steps = 1
        usage, decodes = self.cache.usage, False
        for sequence, tokens in scheduled:
            if sequence.prefilling:
                result.prefill_tokens += tokens
            else:
                decodes = True
            self._compute(sequence, tokens, result)
        timing = self.config.timing
        result.duration_s = timing.prefill_s(result.prefill_tokens) + (timing.decode_s(usage) if decodes else 0.0)
        result.duration_s += (self.adapters.loads - loads) * self.config.adapter_load_s
        result.events = self.cache.take_events()
        return result

    def quiet_steps(self) -> list[float]:
        """When the coming steps end, in seconds from the start of the first, as long as they bring nothing but one
        more token for each running sequence: nobody admitted, no first or last token, no preemption.

        At most QUIET_STEPS_MAX; empty when the next step is not of that kind. Changes nothing.
        """
        if not self._only_decodes():
            return []
        running, cache, block_size = self._running, self.cache, self.config.block_size
        count = min(QUIET_STEPS_MAX, min(s.output_tokens - s.emitted for s in running) - 1)
        while count > 0 and cache.available < sum(
            -(-(s.computed + count) // block_size) - -(-s.computed // block_size) for s in running
        ):
            count //= 2
        if count < 1:
            return []
        taken = [0] * count
        for sequence in running:
            for index in range(-sequence.computed % block_size, count, block_size):
                taken[index] += 1
        held, decode_s = cache.held, self.config.timing.decode_s
        ends: list[float] = []
        end_s, duration_s = 0.0, decode_s(held / cache.capacity)
        for blocks in taken:
            if blocks:
                held += blocks
                duration_s = decode_s(held / cache.capacity)
            end_s += duration_s
            ends.append(end_s)
        return ends

    def run_quiet(self, steps: int) -> StepResult:
        """Take `steps` steps at once, no more than `quiet_steps` promised; it also said how long they last.

        The state is the one that single steps lead to. Events come grouped by sequence instead of by step.
        """
        result = StepResult()
        self._decode(steps, result)
        assert not result.finished, "more steps than quiet_steps promised"
        return result

    def _only_decodes(self) -> bool:
        """Whether the next step computes one token for each running sequence and nothing else."""
        return bool(self._running) and not self._prefilling and (not self._waiting or self._stuck)

    def _decode(self, steps: int, result: StepResult) -> float:
        """`steps` tokens for every running sequence, for which there is room. Returns the last step's duration."""
        block_size = self.config.block_size
        for sequence in self._running:
            used = sequence.computed % block_size
            # Inside a block nothing changes hands: it is held already and not full yet.
            if used == 0 or used + steps >= block_size:
                grown = self._grow(sequence, sequence.computed + steps)
                assert grown, "the caller made sure that there is room"
            sequence.computed += steps
            sequence.known += steps
            sequence.emitted += steps
            result.emitted.append(sequence.request_id)
            if sequence.emitted == sequence.output_tokens:
                result.finished.append(sequence.request_id)
        duration_s = self.config.timing.decode_s(self.cache.usage)
        for request_id in result.finished:
            self._finish(self._sequences[request_id])
        result.steps = steps
        self._stats.generation_tokens += steps * len(result.emitted)
        result.events = self.cache.take_events()
        return duration_s

    def _schedule_running(self, result: StepResult) -> list[tuple[_Sequence, int]]:
        """Give running sequences their tokens and blocks, preempting others where blocks run out."""
        scheduled: list[tuple[_Sequence, int]] = []
        budget, block_size = self.config.max_num_batched_tokens, self.config.block_size
        running, index = self._running, 0
        while index < len(running) and budget > 0:
            sequence = running[index]
            tokens = min(sequence.known - sequence.computed, budget)
            target = sequence.computed + tokens
            # Inside a block nothing changes hands: it is held already and not full yet.
            if tokens > 1 or sequence.computed % block_size == 0 or target % block_size == 0:
                while not self._grow(sequence, target):
                    victim = running.pop(at := self._victim())
                    self._preempt(victim, result)
                    if victim is sequence:
                        return scheduled
                    if at < index:  # the victim has its tokens of this step already
                        index -= 1
                        budget += scheduled.pop(at)[1]
            scheduled.append((sequence, tokens))
            budget -= tokens
            index += 1
        return scheduled

    def _victim(self) -> int:
        """Place in the batch of the sequence that is preempted next: the youngest is."""
        return len(self._running) - 1

    def _schedule_waiting(self, scheduled: list[tuple[_Sequence, int]]) -> None:
        """Admit from the head of the queue while tokens, places and blocks last. Who waits for an adapter's slot is
        passed by those behind."""
        config, block_size = self.config, self.config.block_size
        budget = config.max_num_batched_tokens - sum(tokens for _, tokens in scheduled)
        self._stuck = False
        passed: list[_Sequence] = []
        while self._waiting and budget > 0:
            sequence = self._waiting[0]
            if not self.adapters.admits(sequence.request.adapter):
                passed.append(self._waiting.popleft())
                continue
            hits_max = (sequence.known - 1) // block_size
            lease = None
            if len(self._running) < config.max_num_seqs:
                lease = self.cache.admit(sequence.request.block_hashes, hits_max, -(-sequence.known // block_size))
            if lease is None:
                self._stuck = True
                break
            self.adapters.take(sequence.request.adapter)
            self._running.append(self._waiting.popleft())
            sequence.lease = lease
            sequence.prefilling = True
            self._prefilling += 1
            self._set_computed(sequence, lease.full * block_size)
            if sequence.cached < 0:
                sequence.cached = sequence.computed
                self._stats.prefix_queries += sequence.known
                self._stats.prefix_hits += sequence.computed
            external = min(sequence.external, sequence.known - 1)
            if external > sequence.computed:
                grown = self._grow(sequence, external)
                assert grown, "admission made sure that the whole sequence fits"
                self._set_computed(sequence, external)
            tokens = min(sequence.known - sequence.computed, budget)
            grown = self._grow(sequence, sequence.computed + tokens)
            assert grown, "admission made sure that the whole sequence fits"
            scheduled.append((sequence, tokens))
            budget -= tokens
        if passed:
            self._stuck = self._stuck or not self._waiting
            self._waiting.extendleft(reversed(passed))

    def _compute(self, sequence: _Sequence, tokens: int, result: StepResult) -> None:
        """Account for computed tokens; a sequence that has caught up with what is known emits one more."""
        self._set_computed(sequence, sequence.computed + tokens)
        if sequence.computed < sequence.known:
            return
        if sequence.prefilling:
            sequence.prefilling = False
            self._prefilling -= 1
            if sequence.emitted == 0:
                result.first[sequence.request_id] = sequence.cached
                self._stats.prompt_tokens += sequence.request.prompt_tokens
        sequence.known += 1
        sequence.emitted += 1
        self._stats.generation_tokens += 1
        result.emitted.append(sequence.request_id)
        if sequence.emitted == sequence.output_tokens:
            result.finished.append(sequence.request_id)
            self._finish(sequence)

    def _finish(self, sequence: _Sequence) -> None:
        self._running.remove(sequence)
        if sequence.request.kept and sequence.lease is not None:
            self._kept[sequence.request_id], sequence.lease = sequence.lease, None
        else:
            self._release(sequence)
        del self._sequences[sequence.request_id]
        self._stats.finished += 1

    def _preempt(self, sequence: _Sequence, result: StepResult) -> None:
        """Take a sequence's blocks and put it back at the head of the queue; what it emitted stays emitted."""
        self._release(sequence)
        self._set_computed(sequence, 0)
        sequence.external = 0
        self._waiting.appendleft(sequence)
        self._stats.preemptions += 1
        result.preempted.append(sequence.request_id)

    def _grow(self, sequence: _Sequence, tokens: int) -> bool:
        assert sequence.lease is not None
        return self.cache.grow(sequence.lease, sequence.request.block_hashes, tokens, self.config.block_size)

    def _release(self, sequence: _Sequence) -> None:
        assert sequence.lease is not None
        self.cache.release(sequence.lease)
        self.adapters.let_go(sequence.request.adapter)
        sequence.lease = None
        self._prefilling -= sequence.prefilling
        sequence.prefilling = False
        self._stuck = False

    def _set_computed(self, sequence: _Sequence, tokens: int) -> None:
        prompt_tokens = sequence.request.prompt_tokens
        change = max(0, prompt_tokens - tokens) - max(0, prompt_tokens - sequence.computed)
        self._stats.queued_prefill_tokens += change
        sequence.computed = tokens
