"""Load of an engine from its `/metrics` page: Prometheus text -> one `EngineReading`. Pure.

A page of vLLM has 50 KB and a thousand samples, of which eight matter: they are searched for by name, which takes
0.1 ms where parsing the page takes 40. Known are the names of vLLM (v1) and SGLang. Samples of one name are summed, as
a server with several engines (data parallel ranks) has one for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from pointsman.contract.events import EngineLoad
from pointsman.router.errors import ScrapeError


@dataclass(frozen=True, slots=True)
class _Names:
    """One kind of server's names for what is read."""

    running: bytes
    waiting: bytes
    usage: bytes
    cached: bytes


_SERVERS = (
    _Names(
        b"vllm:num_requests_running",
        b"vllm:num_requests_waiting",
        b"vllm:kv_cache_usage_perc",
        b"vllm:prefix_cache_hits_total",
    ),
    _Names(b"sglang:num_running_reqs", b"sglang:num_queue_reqs", b"sglang:token_usage", b"sglang:cached_tokens_total"),
)
_VLLM_CACHE = b"vllm:cache_config_info"
_VLLM_LORA = b"vllm:lora_requests_info"
_SGLANG_CAPACITY = b"sglang:max_total_num_tokens"
_STARTED = b"process_start_time_seconds"

_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"')


class EngineReading(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One look at an engine."""

    load: EngineLoad
    capacity_tokens: int = 0
    """KV there is room for; 0 is unsaid."""
    cached_tokens: int = 0
    """Prompt tokens found in its prefix cache since it started."""
    started_s: float = 0.0
    """When its process started, in its own clock's seconds since 1970: another value is another life. 0 is unsaid."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters with requests at this moment."""
    adapter_slots: int = 0
    """LoRA adapters one batch may hold; 0 is unsaid."""


def read_metrics(page: bytes) -> EngineReading:
    """Reads a page. Raises ScrapeError when it is not one of a server that is known."""
    for names in _SERVERS:
        running = _sum(page, names.running)
        if running is None:
            continue
        usages = [value for _, value in _samples(page, names.usage)]
        adapters, adapter_slots = _adapters(page)
        return EngineReading(
            load=EngineLoad(
                running=int(running),
                waiting=int(_sum(page, names.waiting) or 0),
                kv_usage=min(1.0, max(0.0, sum(usages) / len(usages))) if usages else 0.0,
            ),
            capacity_tokens=_capacity(page),
            cached_tokens=int(_sum(page, names.cached) or 0),
            started_s=max((value for _, value in _samples(page, _STARTED)), default=0.0),
            adapters=adapters,
            adapter_slots=adapter_slots,
        )
    raise ScrapeError("none of the known metrics is there: " + ", ".join(n.running.decode() for n in _SERVERS))


def _samples(page: bytes, name: bytes) -> Iterator[tuple[bytes, float]]:
    """Labels (as they stand) and value of every sample of exactly this name. Odd and negative ones are left out."""
    at = 0 if page.startswith(name) else page.find(b"\n" + name) + 1
    while at > 0 or page.startswith(name, at):
        end = page.find(b"\n", at)
        line = page[at + len(name) : end if end >= 0 else len(page)]
        if line[:1] in (b"{", b" "):
            labels, _, rest = line.rpartition(b"}")
            words = rest.split()
            try:
                value = float(words[0])
            except (IndexError, ValueError):
                value = -1.0
            if 0.0 <= value < float("inf"):
                yield labels[1:], value
        at = page.find(b"\n" + name, end) + 1 if end >= 0 else 0
        if not at:
            return


def _labels(text: bytes) -> Mapping[bytes, bytes]:
    return dict(_LABEL.findall(text))


def _sum(page: bytes, name: bytes) -> float | None:
    values = [value for _, value in _samples(page, name)]
    return sum(values) if values else None


def _capacity(page: bytes) -> int:
    tokens = 0
    for text, _ in _samples(page, _VLLM_CACHE):
        labels = _labels(text)
        blocks, size = labels.get(b"num_gpu_blocks", b""), labels.get(b"block_size", b"")
        if blocks.isdigit() and size.isdigit():
            tokens += int(blocks) * int(size)
    return tokens or int(_sum(page, _SGLANG_CAPACITY) or 0)


def _adapters(page: bytes) -> tuple[tuple[str, ...], int]:
    """Of the newest sample: vLLM keeps one for every set of adapters there ever was, its value the time it was true."""
    newest = max(_samples(page, _VLLM_LORA), key=lambda sample: sample[1], default=None)
    if newest is None:
        return (), 0
    labels = _labels(newest[0])
    running = labels.get(b"running_lora_adapters", b"").decode("utf-8", "replace")
    slots = labels.get(b"max_lora", b"")
    return tuple(filter(None, running.split(","))), int(slots) if slots.isdigit() else 0
