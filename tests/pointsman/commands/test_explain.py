"""`pointsman explain`: the question that a command line makes, and the answer as people read it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from drawn import WIDTH, assert_fits, drawn, pointsman
from golden import assert_golden
from router_fixture import register, running_router
from shown_things import CANDIDATES, DECISION
from telling_admin import problem, telling_admin

from pointsman.commands.explain import answer_shown, explanation_shown, question
from pointsman.errors import StartError

GOLDEN = Path(__file__).parent / "golden"

NOTHING: dict[str, Any] = {
    "body": None,
    "raw": False,
    "path": "",
    "headers": [],
    "request": "",
    "session": "",
    "model": "",
}

EXPLAINED: dict[str, Any] = {
    "decision": {"reason": "kv-home", "first": "chat-1", "second": "chat-2", "status": 0, "hold_ms": 0, "prefill": ""},
    "would_change": "It leaves chat-1 for chat-2 when the queue of chat-1 is 927 ms longer.",
    "margin": 927.2,
    "margin_unit": "ms",
    "prompt_tokens": 38_211,
    "resident_tokens": 37_904,
    "candidates": CANDIDATES,
    "excluded": {"chat-3": "ejected"},
    "policy": {"policy": "kv_cost", "tie_ms": 5.0},
    "features": {"path": "/v1/chat/completions", "model": "qwen3-8b", "session": "ab12", "body_bytes": 160_000},
    "assumed": ["model_header"],
    "warnings": ["HAProxy looks at about the first 114,688 of the body's 160,000 bytes; the rest is not read."],
}


def test_a_body_is_sent_as_a_whole_request(tmp_path: Path) -> None:
    """With the path that its keys tell, and the session in a header."""
    body = tmp_path / "body.json"
    body.write_text('{"model": "m",\n "messages": []}')
    asked = question(**NOTHING | {"body": body, "session": "ab", "headers": ["X-Model: n"]})
    assert asked == {
        "path": "/v1/chat/completions",
        "headers": {"x-model": "n", "x-session-id": "ab"},
        "body": {"model": "m", "messages": []},
    }
    assert question(**NOTHING | {"body": body, "model": "other"})["body"]["model"] == "other"
    assert question(**NOTHING | {"body": body, "raw": True})["body"] == body.read_text()


@pytest.mark.parametrize(
    ("key", "path"),
    [("messages", "/v1/chat/completions"), ("prompt", "/v1/completions"), ("input", "/v1/responses")],
)
def test_the_path_follows_from_the_body(tmp_path: Path, key: str, path: str) -> None:
    """Unless it is given."""
    body = tmp_path / "body.json"
    body.write_text(json.dumps({key: "x"}))
    assert question(**NOTHING | {"body": body})["path"] == path
    assert question(**NOTHING | {"body": body, "path": "/v1/embeddings"})["path"] == "/v1/embeddings"


def test_a_past_request_is_asked_for_by_its_id_alone() -> None:
    """And a session, or a model, by what is known of it."""
    assert question(**NOTHING | {"request": "6f1c"}) == {"request": "6f1c"}
    assert question(**NOTHING | {"session": "s", "model": "m"}) == {"session": "s", "model": "m"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "-f BODY.json, --request ID, or --session S"),
        ({"body": Path("/no/such"), "request": "x"}, "not both"),
        ({"body": Path("/no/such")}, "-f: /no/such: cannot be read: No such file"),
        ({"body": Path("/dev/null")}, "-f: /dev/null: no JSON"),
        ({"headers": ["novalue"], "body": "OBJECT"}, "--header: novalue: NAME: VALUE"),
        ({"body": "LIST"}, "a JSON object is expected"),
        ({"body": "OBJECT", "raw": True, "model": "m"}, "--model"),
    ],
)
def test_a_question_that_is_none_is_one_sentence(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    """Before anybody is asked."""
    texts = {"OBJECT": '{"messages": []}', "LIST": "[]"}
    if given.get("body") in texts:
        path = tmp_path / "body.json"
        path.write_text(texts[given["body"]])
        given = given | {"body": path}
    with pytest.raises(StartError) as refused:
        question(**NOTHING | given)
    assert says in str(refused.value)


def test_the_answer_has_candidates_terms_and_what_would_change_it() -> None:
    """And below them what else there is to know."""
    text = drawn(explanation_shown(EXPLAINED, width=WIDTH))
    assert_golden(GOLDEN / "explained.txt", text)
    assert_fits(text)


def test_a_past_request_is_shown_as_it_was_and_as_it_would_be() -> None:
    """In this order."""
    text = drawn(answer_shown(EXPLAINED | {"then": DECISION}, UTC, width=WIDTH))
    then, now = text.split("asked again at this moment:")
    assert DECISION["id"] in then and "412 tokens out" in then
    assert "927 ms longer" in now and DECISION["id"] not in now


def test_a_refusal_says_its_status_and_how_long_it_is_held() -> None:
    """Nobody gets the request."""
    decision = {"reason": "admission", "first": "", "second": "", "status": 429, "hold_ms": 2_000}
    text = drawn(explanation_shown(EXPLAINED | {"decision": decision, "candidates": []}, width=WIDTH))
    assert "-> nobody: 429 admission, held for 2,000 ms at most" in text


def test_a_request_that_is_not_kept_is_exit_code_1() -> None:
    """The router was asked, and knows none."""
    with telling_admin({"POST /v1/explain": problem(404, "no decision about request 'x' is known here")}) as admin:
        done = pointsman("explain", "--request", "x", "--admin", admin.url)
        assert done.exit_code == 1 and "no decision about request 'x'" in done.stderr


async def test_a_real_router_explains_a_body(tmp_path: Path) -> None:
    """From standard input, too."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "long " * 1_000}]})
    async with running_router() as router:
        await register(router, "a", "b", model="m")
        where = ("--admin", str(router.addresses["admin"]))
        done = await asyncio.to_thread(pointsman, "explain", "-f", "-", *where, input=body)
        assert done.exit_code == 0, done.output
        assert "model m" in done.output and "kv-cold" in done.output
        assert {line.split()[0] for line in done.output.splitlines() if line[:2] in ("a ", "b ")} == {"a", "b"}
