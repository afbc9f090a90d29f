"""vLLM settings for a machine without a GPU. This is the one place that knows them; a replica on a GPU gets none.

Values are meant for small models and several replicas a machine: demonstrations and tests. All of them come before the
user's own, who therefore can change each (`--block-size 128`, `--no-enforce-eager`, `OMP_NUM_THREADS=8`).
"""

from __future__ import annotations

ENV: dict[str, str] = {
    # With the uni executor below: the worker lives inside the engine core's process. One process, 12 s and 630 MB less.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM otherwise pins every replica's threads to the same cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # The sampler's first top-k, top-p or logprobs request would otherwise compile with g++, for up to two minutes.
    "TORCH_COMPILE_DISABLE": "1",
}
"""Environment of the actor's process; read by vLLM and torch when they are imported."""

ARGS: tuple[str, ...] = (
    "--distributed-executor-backend=uni",
    "--enforce-eager",
    # Bytes rather than VLLM_CPU_KVCACHE_SPACE, whose unit is a whole GiB.
    "--kv-cache-memory-bytes=64M",
    # The CPU attention takes multiples of 32.
    "--block-size=32",
    "--max-model-len=4096",
    "--max-num-seqs=64",
    "--max-num-batched-tokens=2048",
)
"""Arguments of `vllm serve`."""
