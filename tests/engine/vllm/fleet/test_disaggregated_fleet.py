"""Prefill and decode on real vLLM replicas on the CPU, KV by NIXL: one replica of each kind for all tests.

Tests run in the order of the file; the last one kills the prefill replica's engine.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import count_tokenised
import httpx
import psutil
import pytest
from vllm_fleet import READY_S, FleetProcess, Lines, admin_server, listener_of, real_vllm, running_fleet

from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped

pytestmark = real_vllm("nixl", timeout_s=3 * READY_S)

WAIT_S = 120.0
"""For an answer, or for what is told of it: a moment on an idle machine."""

GONE_S = 0.3
"""A killed process is gone by then, and the prefill request that waits for it has not been given up."""

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
    calls: Lines
    """What the routers were told."""
    folder: Path
    decode: str
    prefill: str

    def paired(self, peer: str = "") -> dict[str, str]:
        """What HAProxy adds to a request the router paired."""
        named = (peer or self.prefill).removeprefix("http://")
        return {"x-pointsman-prefill": named, "x-request-id": secrets.token_hex(8)}

    def wait_told(self, replica: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message of a replica that is wanted."""
        path = f"/v1/replicas/{replica}/events"
        found: dict[str, Any] = self.calls.wait(lambda call: call.path == path and wanted(call.body), WAIT_S).body
        return found

    def tokenised(self, role: str) -> list[int]:
        """Characters of the texts that a replica's engine made tokens of, prompts of these tests only."""
        lengths = map(int, (self.folder / role).read_text().split())
        return [length for length in lengths if length > len(PROMPT)]


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with tempfile.TemporaryDirectory(prefix="pm-") as name, admin_server() as (admin, calls):
        folder = Path(name)
        (folder / "plugin").mkdir()
        count_tokenised.install(folder / "plugin")
        path = os.pathsep.join([str(folder / "plugin"), os.environ.get("PYTHONPATH", str(Path.cwd()))])
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        pools = [
            {
                "name": role,
                "model": "tiny",
                "role": role,
                "num_cpus": 0.5,
                "env": {"PYTHONPATH": path, count_tokenised.FILE: str(folder / role)},
            }
            for role in ("decode", "prefill")
        ]
        with running_fleet(folder, environment, pools=pools, admin=[admin], ray_dir=str(folder / "ray")) as fleet:
            urls = [fleet.wait_ready(f"{role}-1") for role in ("decode", "prefill")]
            yield Two(fleet, calls, folder, *urls)


def metric(url: str, name: str, **labels: str) -> float:
    """One of vLLM's own counters, summed over the labels that are not given."""
    total = 0.0
    for line in httpx.get(f"{url}/metrics", timeout=WAIT_S).text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def computed(url: str) -> float:
    """Prompt tokens computed there."""
    return metric(url, "vllm:prompt_tokens_by_source_total", source="local_compute")


def fetched(url: str) -> float:
    """Prompt tokens whose KV came from another replica."""
    return metric(url, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer")


@pytest.mark.parametrize(("path", "body", "said"), APIS)
def test_the_answer_is_what_one_replica_alone_gives(two: Two, path: str, body: dict[str, Any], said: Any) -> None:
    """Token for token, logprobs too where asked for. Of the prompt hundreds of tokens were fetched, and less than a
    block was computed by the decode replica, which alone made tokens of it, once.

    First paired, then alone on the prefill replica, which holds its own KV of the prompt: neither finds the other's.
    """
    before = fetched(two.decode), computed(two.decode)
    tokenised = len(two.tokenised("decode")), len(two.tokenised("prefill"))
    paired = httpx.post(two.decode + path, json=body, headers=two.paired(), timeout=WAIT_S)
    assert paired.status_code == 200, paired.text
    assert fetched(two.decode) - before[0] > 300
    assert computed(two.decode) - before[1] <= 32
    assert (len(two.tokenised("decode")), len(two.tokenised("prefill"))) == (tokenised[0] + 1, tokenised[1])
    alone = httpx.post(two.prefill + path, json=body, timeout=WAIT_S)
    assert alone.status_code == 200, alone.text
    assert _stable(said(paired.json())) == _stable(said(alone.json()))


def test_a_stream_is_handed_over_and_its_kv_known_on_both(two: Two) -> None:
    """The decode replica tells the router of the handoff; both tell the prefix keys of the client's body."""
    body = {**GREEDY, "stream": True, "messages": [{"role": "user", "content": "stream " + PROMPT}]}
    content = json.dumps(body).encode()
    headers = {**two.paired(), "content-type": "application/json"}
    answer = httpx.post(two.decode + "/v1/chat/completions", content=content, headers=headers, timeout=WAIT_S)
    assert answer.text.rstrip().endswith("data: [DONE]")
    prefill = headers["x-request-id"] + ".prefill"
    two.wait_told("decode-1", lambda told: (told.get("handoffs") or {}).get("ok") == len(APIS) + 1)
    two.wait_told("prefill-1", lambda told: prefill in [first["id"] for first in told.get("first", ())])
    keys = set(scoped(prefix_keys(content), scope_of("tiny")))
    for replica in ("decode-1", "prefill-1"):
        two.wait_told(replica, lambda told: bool(keys & set(told.get("stored", ()))))


def test_transfer_parameters_of_a_client_are_refused(two: Two) -> None:
    """400, by both."""
    for url in (two.decode, two.prefill):
        body = {**GREEDY, "prompt": "x", "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.0.0.1"}}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=WAIT_S).status_code == 400


def test_a_prefill_that_never_answers_ends_with_its_client(two: Two) -> None:
    """The client gives up; the prefill request's connection is closed, and the decode replica is idle."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        body = {**GREEDY, "prompt": "leave " + PROMPT}
        headers = two.paired(f"127.0.0.1:{silent.getsockname()[1]}") | {"content-type": "application/json"}
        silent.settimeout(WAIT_S)
        client = http.client.HTTPConnection(two.decode.removeprefix("http://"))
        client.request("POST", "/v1/completions", json.dumps(body), headers)
        prefill, _ = silent.accept()
        client.close()
        with prefill:
            prefill.settimeout(WAIT_S)
            while prefill.recv(65536):
                pass
    two.wait_told(
        "decode-1", lambda told: headers["x-request-id"] in [ended["id"] for ended in told.get("finished", ())]
    )


def test_a_prefill_replica_killed_between_the_legs_costs_the_client_nothing(two: Two) -> None:
    """It answered its prefill request and died before its KV was fetched: 200, the answer as ever, counted as lost."""
    body = {**GREEDY, "prompt": "kill " + PROMPT}
    alone = httpx.post(f"{two.prefill}/v1/completions", json=body, timeout=WAIT_S).json()["choices"][0]["text"]
    server = listener_of(two.prefill)
    victims = [*server.children(recursive=True), server]

    class Between(BaseHTTPRequestHandler):
        """Hands the prefill request on, and ends the prefill replica before it hands the answer back."""

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            answer = httpx.post(
                f"{two.prefill}{self.path}", content=content, headers=dict(self.headers), timeout=WAIT_S
            )
            for victim in victims:
                victim.kill()
            psutil.wait_procs(victims, GONE_S)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Between) as between:
        thread = threading.Thread(target=between.serve_forever)
        thread.start()
        try:
            headers = two.paired(f"127.0.0.1:{between.server_port}")
            answer = httpx.post(f"{two.decode}/v1/completions", json=body, headers=headers, timeout=WAIT_S)
        finally:
            between.shutdown()
            thread.join()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == alone
    two.wait_told("decode-1", lambda told: (told.get("handoffs") or {}).get("lost", 0) > 0)


def _stable(value: Any) -> Any:
    """Without the ids that differ from answer to answer."""
    if isinstance(value, list):
        return [_stable(one) for one in value]
    if isinstance(value, dict):
        return {key: _stable(one) for key, one in value.items() if key != "id"}
    return value
