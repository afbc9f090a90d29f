"""Requests for aliases in front of vLLM's app: what the app is asked, and what the client is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from pointsman.engine.vllm.replica import bodies
from pointsman.engine.vllm.replica.gate import Message, Receive, Scope, Send
from pointsman.engine.vllm.replica.renaming import renaming

JSON_TYPE = (b"content-type", b"application/json")
BODY = b'{"messages":[],"model":"chat","max_tokens":3}'


class FakeApp:
    """An ASGI app that notes what it is asked and answers as told."""

    def __init__(self, content_type: bytes, *pieces: bytes, encoding: bytes = b"") -> None:
        self.content_type = content_type
        self.pieces = pieces
        self.encoding = encoding
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = dict(scope["headers"])
        while True:
            message = await receive()
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        headers = [(b"content-type", self.content_type), (b"x-other", b"1")]
        if self.content_type == JSON_TYPE[1]:
            headers.append((b"content-length", str(sum(map(len, self.pieces))).encode()))
        if self.encoding:
            headers.append((b"content-encoding", self.encoding))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    app: FakeApp, *pieces: bytes, model: str = "m-v2", method: str = "POST"
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The headers and the pieces of an answer."""
    headers: Sequence[tuple[bytes, bytes]] = [JSON_TYPE, (b"content-length", str(sum(map(len, pieces))).encode())]
    if model:
        headers = [*headers, (b"x-pointsman-model", model.encode())]
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/v1/chat/completions", "headers": headers}
    await renaming(app)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * (len(sent) - 1)]
    return dict(sent[0]["headers"]), [message["body"] for message in sent[1:]]


async def test_the_engine_is_asked_for_its_own_model() -> None:
    """With the length of the body as it is then, from however many pieces."""
    app = FakeApp(JSON_TYPE[1], b"{}")
    await ask(app, BODY[:20], BODY[20:])
    assert json.loads(app.body) == {**json.loads(BODY), "model": "m-v2"}
    assert app.headers[b"content-length"] == str(len(app.body)).encode()
    assert b"x-pointsman-model" not in app.headers


async def test_a_whole_answer_names_the_alias() -> None:
    """Its length is right, and nothing else of its head changes."""
    app = FakeApp(JSON_TYPE[1], b'{"id":"1",', b'"model":"m-v2"}')
    headers, pieces = await ask(app, BODY)
    assert json.loads(b"".join(pieces)) == {"id": "1", "model": "chat"}
    assert headers[b"content-length"] == str(len(b"".join(pieces))).encode()
    assert headers[b"x-other"] == b"1"


async def test_each_event_of_a_stream_names_the_alias_as_it_comes() -> None:
    """No event waits for another."""
    events = [b'data: {"model":"m-v2","choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(3)]
    app = FakeApp(b"text/event-stream; charset=utf-8", *events, b"data: [DONE]\n\n")
    _, pieces = await ask(app, BODY)
    assert [json.loads(piece[6:])["model"] for piece in pieces[:3]] == ["chat"] * 3
    assert pieces[3:] == [b"data: [DONE]\n\n", b""]


@pytest.mark.parametrize(
    ("body", "given"),
    [
        pytest.param(BODY, {"model": ""}, id="a request for a model"),
        pytest.param(b"no JSON", {}, id="a body that names none"),
        pytest.param(BODY, {"method": "GET"}, id="reading"),
    ],
)
async def test_other_requests_pass_as_they_are(body: bytes, given: dict[str, str]) -> None:
    """Bytes and answer."""
    app = FakeApp(JSON_TYPE[1], b'{"model":"m-v2"}')
    _, pieces = await ask(app, body, **given)
    assert app.body == body
    assert b"".join(pieces) == b'{"model":"m-v2"}'


@pytest.mark.parametrize(("content_type", "encoding"), [(b"audio/wav", b""), (b"application/json", b"gzip")])
async def test_answers_that_cannot_be_read_pass_as_they_are(content_type: bytes, encoding: bytes) -> None:
    """Sound, and what is compressed."""
    app = FakeApp(content_type, b'{"model":"m-v2"}', encoding=encoding)
    _, pieces = await ask(app, BODY)
    assert b"".join(pieces) == b'{"model":"m-v2"}'


async def test_a_body_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the app sees any of it."""
    monkeypatch.setattr(bodies, "BODY_BYTES_MAX", 10)
    app = FakeApp(JSON_TYPE[1])
    _, pieces = await ask(app, BODY)
    assert json.loads(pieces[0])["error"]["code"] == 413
    assert app.headers == {}


async def test_a_client_that_leaves_is_known_to_have_left() -> None:
    """What it sent so far is handed on with the word that there is no more."""
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])

    waiting = [{"type": "http.request", "body": BODY, "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [JSON_TYPE, (b"x-pointsman-model", b"m-v2")]
    await renaming(app)({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
