"""Prefill and decode on real vLLM replicas on the CPU, KV by NIXL: one replica of each kind for all tests.

Tests run in the order of the file; the last one kills the prefill replica's engine.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from vllm_fleet import MISSING, READY_S, FleetProcess, running_fleet

MISSING_HERE = MISSING or ("" if find_spec("nixl") else "nixl")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(bool(MISSING_HERE), reason=f"{MISSING_HERE} is not installed (make engine-cpu)"),
    pytest.mark.timeout(READY_S + 60),
    pytest.mark.xdist_group("vllm"),
]

PROMPT = "the quick brown fox jumps over the lazy dog and " * 40
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 24, "ignore_eos": True}

APIS = [
    pytest.param(
        "/v1/chat/completions",
        {**GREEDY, "messages": [{"role": "user", "content": "chat " + PROMPT}]},
        lambda body: body["choices"][0]["message"]["content"],
        id="chat",
    ),
    pytest.param(
        "/v1/completions",
        {**GREEDY, "prompt": "complete " + PROMPT, "min_tokens": 8, "logprobs": 1},
        lambda body: (body["choices"][0]["text"], body["choices"][0]["logprobs"]["token_logprobs"]),
        id="completion",
    ),
    pytest.param(
        "/v1/responses",
        {"model": "tiny", "temperature": 0, "max_output_tokens": 24, "ignore_eos": True, "input": "respond " + PROMPT},
        lambda body: body["output"],
        id="response",
    ),
    pytest.param(
        "/v1/messages",
        {
            "model": "tiny",
            "temperature": 0,
            "max_tokens": 24,
            "messages": [{"role": "user", "content": "say " + PROMPT}],
        },
        lambda body: body["content"],
        id="message",
    ),
]


class Two(NamedTuple):
    """A decode and a prefill replica, by URL."""

    fleet: FleetProcess
    decode: str
    prefill: str

    @property
    def paired(self) -> dict[str, str]:
        """What HAProxy adds to a request the router paired."""
        return {"x-pointsman-prefill": self.prefill.removeprefix("http://"), "x-request-id": secrets.token_hex(8)}


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    pools = [
        {"name": role, "model": "tiny", "role": role, "num_cpus": 0.5, "env": {"VLLM_LOGGING_LEVEL": "INFO"}}
        for role in ("decode", "prefill")
    ]
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        folder = Path(name)
        with running_fleet(folder, environment, pools=pools, ray_dir=str(folder / "ray")) as fleet:
            urls = [fleet.wait_ready(f"{role}-1") for role in ("decode", "prefill")]
            yield Two(fleet, *urls)


def metric(url: str, name: str, **labels: str) -> float:
    """One of vLLM's own counters, summed over the labels that are not given."""
    total = 0.0
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def fetched(url: str) -> float:
    """Prompt tokens whose KV came from another replica."""
    return metric(url, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer")


@pytest.mark.parametrize(("path", "body", "said"), APIS)
def test_the_answer_is_what_one_replica_alone_gives(two: Two, path: str, body: dict[str, Any], said: Any) -> None:
    """Token for token, logprobs too where asked for; hundreds of prompt tokens were fetched and one was computed.

    First paired, then alone on the prefill replica, which holds its own KV of the prompt: neither finds the other's.
    """
    before = fetched(two.decode), metric(two.decode, "vllm:prompt_tokens_by_source_total", source="local_compute")
    paired = httpx.post(two.decode + path, json=body, headers=two.paired, timeout=60)
    assert paired.status_code == 200, paired.text
    after = fetched(two.decode), metric(two.decode, "vllm:prompt_tokens_by_source_total", source="local_compute")
    alone = httpx.post(two.prefill + path, json=body, timeout=60)
    assert alone.status_code == 200, alone.text
    assert _stable(said(paired.json())) == _stable(said(alone.json()))
    assert after[0] - before[0] > 300, "the KV came from the prefill replica"
    assert after[1] - before[1] <= 32, "less than a block was computed here"


def _stable(value: Any) -> Any:
    """Without the ids that differ from answer to answer."""
    if isinstance(value, list):
        return [_stable(one) for one in value]
    if isinstance(value, dict):
        return {key: _stable(one) for key, one in value.items() if key != "id"}
    return value
