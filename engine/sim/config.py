"""Settings of one simulated replica."""

from __future__ import annotations

import math
import re
from urllib.parse import urlsplit

import msgspec

from pointsman.contract.registration import Role
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.model import ModelConfig
from pointsman.engine.sim.timing import TIMINGS, paced

REPLICA_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What HAProxy takes as a server's name."""


class SimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one simulated replica. Raises SimConfigError on a value that cannot work."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: the OS picks one; the ready line says which."""
    url: str = ""
    """How others reach this replica; empty: http://host:port."""
    replica_id: str = "sim-0"
    model: str = "sim"
    """Served model name. Another one that is no adapter is answered with 404."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters served beside the model; `/v1/load_lora_adapter` adds more."""
    max_loras: int = 0
    """LoRA adapters one batch may hold; 0: none are served."""
    lora_load_ms: float = 100.0
    """Time to load an adapter, while everything else in the batch waits."""

    kv_tokens: int = 524_288
    """KV capacity in tokens."""
    block_size: int = 16
    """Tokens a KV block."""
    max_model_len: int = 131_072
    """Context length: prompt and answer together, in tokens. Capped to `kv_tokens`."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8_192
    timing: str = "dense-h100"
    """Preset of step durations; see `pointsman.engine.sim.timing`."""
    token_interval_ms: float = 0.0
    """Above 0: a fixed pace instead of the preset; every running sequence emits one token each interval."""
    first_token_ms: float = 0.0
    """A request enters the engine this much after it arrived: the time to first token of an idle, paced replica."""
    mean_output_tokens: int = 128
    """Mean of the answer length where the client neither cuts it short nor sets `ignore_eos`."""
    seed: int = 0

    register: tuple[str, ...] = ()
    """Admin URLs of the routers to register with; empty: none."""
    admin_token: str = ""
    events: bool = True
    """Publish resident keys and requests to the routers; when off, the replica is a plain endpoint to them."""
    heartbeat_s: float = 2.0
    ttl_s: float = 10.0

    role: Role = Role.BOTH
    """`prefill` computes prompts for decode replicas, `decode` has prompts computed where the router says."""
    prefill_timeout_s: float = 30.0
    """How long a decode replica waits for a prefill replica before it computes a prompt itself."""
    handoff_ms: float = 2.0
    """Time to fetch KV from a prefill replica, whatever its size."""
    handoff_us_per_token: float = 2.5
    """Time to fetch the KV of one token: 128 KiB at 50 GB/s."""
    kv_lease_s: float = 30.0
    """How long a prefill replica keeps KV that is not fetched, as NIXL does."""

    echo: bool = False
    """Answer /echo... with what was received."""
    faults: bool = False
    """Serve /sim/fault and /sim/stats."""
    drain_s: float = 30.0
    """After the first SIGTERM or SIGINT, how long running streams may take to finish."""
    keep_alive_s: float = 5.0
    """Idle connections are closed after this long, as vLLM does (VLLM_HTTP_TIMEOUT_KEEP_ALIVE)."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SimConfigError("port", self.port, "0 to 65535")
        if not REPLICA_ID.fullmatch(self.replica_id):
            raise SimConfigError("replica_id", self.replica_id, "1 to 64 of A-Z a-z 0-9 _ . : -")
        if not self.model:
            raise SimConfigError("model", self.model, "a name")
        for url in (*self.register, self.url):
            parts = urlsplit(url)
            if url and not (parts.scheme in ("http", "https") and parts.hostname):
                raise SimConfigError("url" if url is self.url else "register", url, "http://host:port")
        if self.timing not in TIMINGS:
            raise SimConfigError("timing", self.timing, f"one of {', '.join(TIMINGS)}")
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
            adapter_slots=self.max_loras,
            adapter_load_s=self.lora_load_ms / 1000,
        )
