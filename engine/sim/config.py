"""Settings of one simulated replica, and of the engine modelled in it."""

from __future__ import annotations

import math
import re
from urllib.parse import urlsplit

import msgspec

from pointsman.contract.registration import REPLICA_ID_PATTERN, Role
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.timing import DENSE_H100, TIMINGS, Timing, paced

SCHEDULING_POLICIES = ("fcfs", "priority")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's size. Batch limits are what vLLM takes for one large GPU."""

    blocks: int = 32_768
    """KV blocks (vLLM: `num_gpu_blocks`)."""
    block_size: int = 16
    """Tokens a block."""
    max_num_seqs: int = 256
    """Sequences in one batch."""
    max_num_batched_tokens: int = 8_192
    """Tokens one step computes: prompt chunks and one for each decoding sequence."""
    timing: Timing = DENSE_H100
    scheduling_policy: str = "fcfs"
    """`fcfs` or `priority` (vLLM: `--scheduling-policy`)."""
    adapter_slots: int = 0
    """LoRA adapters in one batch (vLLM: `max_loras`)."""
    adapter_load_s: float = 0.0
    """Time that loading an adapter adds to a step."""

    def __post_init__(self) -> None:
        for key in ("blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, key) < 1:
                raise SimConfigError(key, getattr(self, key), "at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            expected = f"at least max_num_seqs ({self.max_num_seqs}), or a full batch could not decode"
            raise SimConfigError("max_num_batched_tokens", self.max_num_batched_tokens, expected)


class SimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one simulated replica. Raises SimConfigError for a value that cannot work."""

    host: str = "127.0.0.1"
    """IP address to listen on."""
    port: int = 0
    """TCP port to listen on; 0 lets the system pick one, and the ready line names it."""
    url: str = ""
    """Base URL under which routers and other replicas reach this one. Empty: `http://HOST:PORT`."""
    replica_id: str = "sim-0"
    """Replica id, unique on the edge."""
    model: str = "sim"
    """Served model name. A request for another name that is no adapter is answered 404."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters served in addition to the model; `/v1/load_lora_adapter` adds more."""
    max_loras: int = 0
    """LoRA adapters that one batch may hold; 0: no adapters are served."""
    lora_load_ms: float = 100.0
    """Time to load an adapter, in milliseconds, during which the batch stands still."""

    kv_tokens: int = 524_288
    """KV capacity, in tokens."""
    block_size: int = 16
    """Tokens per KV block."""
    max_model_len: int = 131_072
    """Context length: prompt and answer together, in tokens. At most `kv_tokens`."""
    max_num_seqs: int = 256
    """Most sequences in one batch, as vLLM's `--max-num-seqs`."""
    max_num_batched_tokens: int = 8_192
    """Most tokens computed in one step, as vLLM's `--max-num-batched-tokens`."""
    scheduling_policy: str = "fcfs"
    """Order of requests in the engine, as vLLM's `--scheduling-policy`: `fcfs`, by arrival, or `priority`, by priority
    class and then arrival."""
    timing: str = "dense-h100"
    """Preset of step durations: `dense-h100` or `fast`."""
    token_interval_ms: float = 0.0
    """Fixed interval between two tokens of every running sequence, in milliseconds, instead of the preset; 0: the
    preset."""
    first_token_ms: float = 0.0
    """Delay, in milliseconds, before a request enters the engine: the time to first token of an idle replica with a
    fixed interval."""
    mean_output_tokens: int = 128
    """Mean length of answers that the client does not limit, in tokens."""
    seed: int = 0
    """Seed of the answers' lengths and words."""

    register: tuple[str, ...] = ()
    """Admin URLs of the routers to register with. Empty: none."""
    admin_token: str = ""
    """Bearer token for the routers' admin API. Empty: none."""
    events: bool = True
    """Whether the replica reports KV, first tokens and ends of requests to the routers. When off, routers treat it as a
    plain endpoint."""
    heartbeat_s: float = 2.0
    """Interval between two renewals of the registration, in seconds."""
    ttl_s: float = 10.0
    """Lease of the registration, in seconds: without a renewal the router removes the replica."""

    role: Role = Role.BOTH
    """Role of the replica: `both`, `prefill` (computes prompts for others) or `decode` (has prompts computed where the
    router says so)."""
    prefill_timeout_s: float = 30.0
    """Time, in seconds, after which a decode replica computes a prompt itself that a prefill replica has not
    finished."""
    handoff_ms: float = 2.0
    """Fixed part of the time to transfer KV to a decode replica, in milliseconds."""
    handoff_us_per_token: float = 2.5
    """Time to transfer the KV of one token, in microseconds; the default is 128 KiB a token at 50 GB/s."""
    kv_lease_s: float = 30.0
    """Time, in seconds, for which a prefill replica keeps KV that no decode replica fetches, as NIXL does."""

    echo: bool = False
    """Whether `/echo...` answers with the request as it was received; for tests."""
    faults: bool = False
    """Whether `/sim/fault` and `/sim/stats` are served; for tests."""
    request_log: str = ""
    """File to which every computed prompt and token is appended at once, for tests that count what an engine did until
    it was killed. Empty: none."""
    drain_s: float = 30.0
    """Time, in seconds, that running streams have to finish after the first SIGTERM or SIGINT."""
    keep_alive_s: float = 5.0
    """Time, in seconds, after which an idle connection is closed, as vLLM's `VLLM_HTTP_TIMEOUT_KEEP_ALIVE`."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SimConfigError("port", self.port, "0 to 65535")
        if not re.fullmatch(REPLICA_ID_PATTERN, self.replica_id):
            raise SimConfigError("replica_id", self.replica_id, "1 to 64 of A-Z a-z 0-9 _ . : -")
        if not self.model:
            raise SimConfigError("model", self.model, "a name")
        for url in (*self.register, self.url):
            parts = urlsplit(url)
            if url and not (parts.scheme in ("http", "https") and parts.hostname):
                raise SimConfigError("url" if url is self.url else "register", url, "http://host:port")
        if self.timing not in TIMINGS:
            raise SimConfigError("timing", self.timing, f"one of {', '.join(TIMINGS)}")
        if self.scheduling_policy not in SCHEDULING_POLICIES:
            raise SimConfigError(
                "scheduling_policy", self.scheduling_policy, f"one of {', '.join(SCHEDULING_POLICIES)}"
            )
        for key in (
            *("token_interval_ms", "first_token_ms", "mean_output_tokens", "drain_s", "max_loras", "lora_load_ms"),
            *("handoff_ms", "handoff_us_per_token"),
        ):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise SimConfigError(key, value, "0 or more")
        for key in ("heartbeat_s", "ttl_s", "keep_alive_s", "max_model_len", "prefill_timeout_s", "kv_lease_s"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value > 0):
                raise SimConfigError(key, value, "more than 0")
        if self.adapters and not self.max_loras:
            raise SimConfigError("max_loras", self.max_loras, "1 or more with adapters")
        if self.kv_tokens < 2 * self.block_size:
            raise SimConfigError("kv_tokens", self.kv_tokens, "at least two blocks")
        self.model_config()

    @property
    def context_tokens(self) -> int:
        """The context length that is served: a sequence must fit the cache alone."""
        return min(self.max_model_len, self.kv_tokens // self.block_size * self.block_size)

    def model_config(self) -> ModelConfig:
        """The part of the settings the engine model takes."""
        return ModelConfig(
            blocks=max(0, self.kv_tokens) // max(1, self.block_size),
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            timing=paced(self.token_interval_ms / 1000) if self.token_interval_ms else TIMINGS[self.timing],
            scheduling_policy=self.scheduling_policy,
            adapter_slots=self.max_loras,
            adapter_load_s=self.lora_load_ms / 1000,
        )
