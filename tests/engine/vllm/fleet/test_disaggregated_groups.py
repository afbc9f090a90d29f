"""Prefill and decode, each a data-parallel group of two ranks that share experts: 2P2D on real vLLM on the CPU.

Five engines of one tiny mixture of experts, KV by NIXL. What is measured is printed: `-s` shows it.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fleet_on_cluster import ON_CPU, SMALL, Site, running_site
from vllm_fleet import real_vllm

pytestmark = [pytest.mark.marathon, *real_vllm("nixl", timeout_s=1200)]

MOE = ["--enable-expert-parallel", "--all2all-backend=allgather_reducescatter", *SMALL]
GROUP = {"model": "tiny-moe", "served_name": "m", "data_parallel_size": 2, "args": MOE, **ON_CPU}
POOLS: list[dict[str, Any]] = [
    {"name": "prefill", "role": "prefill", **GROUP},
    {"name": "decode", "role": "decode", **GROUP},
    {"name": "alone", "model": "tiny-moe", "served_name": "m", "args": SMALL, **ON_CPU},
]
PREFILLS = ("prefill-1.0", "prefill-1.1")
DECODES = ("decode-1.0", "decode-1.1")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(POOLS, *PREFILLS, *DECODES, "alone-1") as site:
        yield site


def fetched(url: str) -> float:
    """Prompt tokens whose KV came from another replica, by vLLM's own count."""
    name, label = "vllm:prompt_tokens_by_source_total{", 'source="external_kv_transfer"'
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name) and label in line)


@pytest.mark.parametrize(("prefill", "decode"), list(itertools.product(PREFILLS, DECODES)))
def test_any_rank_decodes_what_any_rank_of_the_other_group_computed(site: Site, prefill: str, decode: str) -> None:
    """Token for token what one engine gives that has all experts; most of the prompt was fetched."""
    urls = {id: view["url"] for id, view in site.replicas().items()}
    prompt = f"from {prefill} to {decode} " + "the quick brown fox jumps over the lazy dog and " * 8
    body = {"model": "m", "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    before = fetched(urls[decode])
    headers = {
        "x-pointsman-prefill": urls[prefill].removeprefix("http://"),
        "x-request-id": secrets.token_hex(8),
    }
    paired = httpx.post(f"{urls[decode]}/v1/completions", json=body, headers=headers, timeout=60)
    assert paired.status_code == 200, paired.text
    alone = httpx.post(f"{urls['alone-1']}/v1/completions", json=body, timeout=60)
    assert paired.json()["choices"][0]["text"] == alone.json()["choices"][0]["text"]
    moved = fetched(urls[decode]) - before
    print(f"\n{prefill} -> {decode}: {moved:.0f} of {paired.json()['usage']['prompt_tokens']} tokens fetched")
    assert moved > 60
