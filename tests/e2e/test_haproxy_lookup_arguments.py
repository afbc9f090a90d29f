"""What HAProxy asks the router is what its Python twin says it asks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from golden import HAPROXY, body_of, load_cases
from haproxy_fixture import Edge, running_edge

from pointsman.haproxy.lookup_arguments import PlainRequest, is_asked, lookup_arguments
from pointsman.haproxy.lookup_rules import RULES_VARIABLE, LookupRules

pytestmark = pytest.mark.e2e

SEED = 20261201
FUZZED = 300
WINDOW = 65536

SETTINGS: dict[str, Any] = {
    "session_headers": ("x-session-id", "thread-id", "x-later"),
    "path_models": {"/v1/audio/transcriptions": "whisper", "/v1/completions": "old"},
    "policy_override": True,
    "body_window_bytes": WINDOW,
}

CHAT = "/v1/chat/completions"
HEADERS = (
    ("x-session-id", "s"),
    ("X-Session-Id", ""),
    ("thread-id", "  spaced  "),
    ("Thread-Id", "second"),
    ("x-later", "é" * 40),
    ("x-model", "of-the-header"),
    ("X-Model", "x" * 300),
    ("x-pointsman-policy", "random"),
    ("authorization", "Bearer sk-1"),
)


async def agrees(edge: Edge, request: PlainRequest, needs: int, said: str) -> None:
    """Send a request; HAProxy's arguments, or its silence, are those of the twin."""
    before = len(edge.router.asked)
    headers = [(name, value.encode().decode("latin-1")) for name, value in request.headers]
    assert (await edge.ask(target=request.path, body=request.body, headers=headers)).status == 200
    rules = LookupRules.of(edge.config)
    assert (len(edge.router.asked) > before) == is_asked(request.path, rules, needs), said
    if len(edge.router.asked) > before:
        asked = {name: value for name, value in edge.router.asked[-1].items() if name != "id" and value is not None}
        assert asked == lookup_arguments(request, rules, needs=needs, window_bytes=WINDOW), said


async def test_every_golden_body_is_asked_about_as_the_twin_says(tmp_path: Path) -> None:
    """Those that fit into the window, with the policy's needs changing."""
    async with running_edge(tmp_path, replicas=1, body_needs=3, **SETTINGS) as edge:
        for name in ("prefix_keys.json", "body_fields.json"):
            for case, values in load_cases(HAPROXY / name).items():
                body = body_of(values)
                if len(body) <= WINDOW:
                    await agrees(edge, PlainRequest(CHAT, (), body), 3, f"{name}: {case}")


async def test_any_request_is_asked_about_as_the_twin_says(tmp_path: Path) -> None:
    """Paths, headers, bodies and needs of every kind."""
    rng = random.Random(SEED)
    async with running_edge(tmp_path, replicas=1, **SETTINGS) as edge:
        for number in range(FUZZED):
            needs = rng.choice((0, 1, 2, 3, 4, 6, 7, 9, 11))
            path = rng.choice((CHAT, CHAT, "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions", "/sleep"))
            headers = tuple(rng.sample(HEADERS, rng.randrange(5)))
            body = odd_body(rng)
            await edge.api.set_variable("proc.pm.body", needs)
            said = f"SEED={SEED} number={number}: {needs} {path} {headers} {body[:200]!r}"
            await agrees(edge, PlainRequest(path, headers, body), needs, said)


def odd_body(rng: random.Random) -> bytes:
    """A body that clients send, with its keys in any order, or a piece of one."""
    fields: dict[str, Any] = {
        "model": rng.choice(("sim", "a/b", None, "é\\")),
        "messages": [{"role": "user", "content": rng.choice(("x", '\\n"é', "y")) * rng.randrange(5000)}],
        "max_tokens": rng.randrange(10**6),
        "user": "u",
        "cache_salt": "salt",
        "metadata": {"model": "nested"},
        "session_id": "in the body",
    }
    chosen = rng.sample(sorted(fields), rng.randrange(len(fields) + 1))
    body = json.dumps({name: fields[name] for name in chosen}, ensure_ascii=rng.random() < 0.5).encode()
    return body[: rng.randrange(len(body))] if rng.random() < 0.2 else body


async def test_of_a_longer_body_the_twin_sees_about_as_much(tmp_path: Path) -> None:
    """The same keys but for one at most: HAProxy's part of the body ends where its buffer does."""
    body = b'{"model":"m","messages":["' + b"0123456789abcde\n" * 30_000 + b'"]}'
    async with running_edge(tmp_path, replicas=1, body_needs=3, **SETTINGS) as edge:
        for length in (0, 100, 3000):
            request = PlainRequest(CHAT, (("x-long", "v" * length),), body)
            await edge.ask(body=body, headers=request.headers)
            said = edge.router.asked[-1]["body"]
            twin = lookup_arguments(request, LookupRules.of(edge.config), needs=3, window_bytes=WINDOW)["body"]
            assert isinstance(twin, bytes) and abs(len(twin) - len(said)) <= 8
            assert said[:3] == twin[:3]


async def test_a_chunked_body_is_whole_when_its_brackets_are_closed(tmp_path: Path) -> None:
    """Nobody announces its length; one without a model says so."""
    async with running_edge(tmp_path, replicas=1, body_needs=3, **SETTINGS) as edge:
        for body in (b'{"messages":["x"]}', b'{"messages":["x"'):
            chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            headers = (("Transfer-Encoding", "chunked"),)
            await edge.ask(body=chunked, headers=headers)
            request = PlainRequest(CHAT, headers, body)
            asked = {name: value for name, value in edge.router.asked[-1].items() if name != "id" and value is not None}
            assert asked == lookup_arguments(request, LookupRules.of(edge.config), needs=3, window_bytes=WINDOW)


async def test_haproxy_states_the_rules(tmp_path: Path) -> None:
    """Odd names of headers and many paths are read as they were configured."""
    odd: dict[str, Any] = {
        "session_headers": ("x-a", "!&*.^_|~-", "thread-id"),
        "generation_paths": tuple(f"/v1/{'x' * 200}/{number}" for number in range(20)),
        "model_header": "x-&MODEL",
        "path_models": {"/v1/audio/transcriptions": "org/whisper:1", "/v1/%7E": "a+b@c"},
    }
    async with running_edge(tmp_path, replicas=1, **odd) as edge:
        stated = await edge.reconciler.get_text(RULES_VARIABLE)
        assert stated is not None and LookupRules.read(stated) == LookupRules.of(edge.config)
        assert await edge.reconciler.get_text("proc.pm.nothing") is None
