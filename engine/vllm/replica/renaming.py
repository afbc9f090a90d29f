"""Requests for aliases on a vLLM replica: vLLM is asked for its own model, and the client answered by the alias.

`renaming` stands next to vLLM's app, inside of what counts requests and reads their prefix keys: these see the body as
the client sent it, which is what the router made its keys of.
"""

from __future__ import annotations

from pointsman.contract.renaming import MODEL_HEADER, AnswerRenaming, rename_request
from pointsman.engine.vllm.replica.bodies import replayed, take_whole
from pointsman.engine.vllm.replica.gate import READING_METHODS, App, Message, Receive, Scope, Send

_HEADER = MODEL_HEADER.encode()


def renaming(app: App) -> App:
    """Return an ASGI application around vLLM's."""

    async def renamed(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" and scope["method"] not in READING_METHODS else {}
        model = headers.get(_HEADER)
        if model is None:
            await app(scope, receive, send)
            return
        taken = await take_whole(receive, send)
        if taken is None:
            return
        messages, body = taken
        kind = headers.get(b"content-type", b"").decode("latin-1")
        found = rename_request(body, kind, model.decode("latin-1"))
        if found is None:
            await app(scope, replayed(messages, receive), send)
            return
        left = [messages[-1]] if messages[-1]["type"] != "http.request" else []
        whole: Message = {"type": "http.request", "body": found.body, "more_body": bool(left)}
        length = str(len(found.body)).encode()
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", _HEADER)]
        scope = {**scope, "headers": [*kept, (b"content-length", length)]}
        answer = _Answer(send, AnswerRenaming(model.decode("latin-1"), found.alias))
        await app(scope, replayed([whole, *left], receive), answer.send)

    return renamed


class _Answer:
    """One answer on its way. What is neither a stream of events nor JSON passes as it is."""

    def __init__(self, send: Send, names: AnswerRenaming) -> None:
        self._send = send
        self._names = names
        self._streams = False
        self._start: Message | None = None
        """Head of an answer that is kept until it is whole."""
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            kind = headers.get(b"content-type", b"")
            if b"content-encoding" not in headers:
                self._streams = kind.startswith(b"text/event-stream")
                if kind.startswith(b"application/json"):
                    self._start = message
                    return
        elif message["type"] == "http.response.body":
            if self._start is not None:
                await self._keep(message)
                return
            if self._streams and message.get("body"):
                message = {**message, "body": self._names.events(message["body"])}
        await self._send(message)

    async def _keep(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        assert self._start is not None
        body = self._names.whole(bytes(self._body))
        kept = [pair for pair in self._start.get("headers", ()) if pair[0].lower() != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        start, self._start = {**self._start, "headers": headers}, None
        await self._send(start)
        await self._send({**message, "body": body})
