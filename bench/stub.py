"""Replicas that cost next to nothing: `python -m bench.stub --replicas 4`.

Every POST is answered with one fixed chat completion, or, when its body asks for a stream, with `max_tokens` events at
a fixed pace: the replica has one step for all its streams, as an engine has, and writes one chunk to each. A POST to
`.../render` gets the prompt's token ids, one for four bytes, as vLLM gives them to routers that ask.

All replicas live in one process, each on a port of its own; the first line on stdout is their URLs as JSON.
`GET /counts` says how many generations each has answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import struct
import sys
from typing import Final, cast

import uvloop

from bench.form import read_options

MODEL: Final = "bench"
_CARD = {"id": MODEL, "object": "model", "created": 1, "owned_by": "bench", "root": MODEL, "max_model_len": 131072}

ANSWER: Final = json.dumps(
    {
        "id": "chatcmpl-5a1b9c0e7d3f4c2a8e6b1d0f9a7c5e3b",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " points"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 16, "completion_tokens": 1, "total_tokens": 17},
    }
).encode()


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    document = {
        "id": "chatcmpl-5a1b9c0e7d3f4c2a8e6b1d0f9a7c5e3b",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}],
    }
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


TOKEN_EVENT: Final = _event({"content": " points"}, None)
LAST_EVENTS: Final = _event({}, "length") + b"data: [DONE]\n\n"
LAST_EVENT_COUNT: Final = 2


def stream_events(tokens: int) -> int:
    """Server-sent events of a stream of so many tokens."""
    return tokens + LAST_EVENT_COUNT


def stream_bytes(tokens: int) -> int:
    """Body bytes of a stream of so many tokens, chunked coding taken off."""
    return tokens * len(TOKEN_EVENT) + len(LAST_EVENTS)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


_ANSWER_WIRE: Final = _whole(b"application/json", ANSWER)
_MODELS_WIRE: Final = _whole(b"application/json", json.dumps({"object": "list", "data": [_CARD]}).encode())
_EMPTY_WIRE: Final = _whole(b"text/plain", b"")
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_TOKEN_WIRE: Final = _chunk(TOKEN_EVENT)
_LAST_WIRE: Final = _chunk(LAST_EVENTS) + b"0\r\n\r\n"

MAX_RENDERED: Final = 128
"""Renderings kept; a bench repeats fewer prompts."""
VOCABULARY: Final = 151_936

_STREAM: Final = re.compile(rb'"stream":[ ]*true')
_MAX_TOKENS: Final = re.compile(rb'"max_tokens":[ ]*(\d+)')
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ ]*(\d+)", re.IGNORECASE)


_rendered: dict[bytes, bytes] = {}


def render(body: bytes) -> bytes:
    """The answer to `/v1/chat/completions/render`: equal beginnings have equal token ids."""
    found = _rendered.get(body)
    if found is None:
        ids = [word % VOCABULARY for (word,) in struct.iter_unpack("<I", body[: len(body) // 4 * 4])]
        found = _whole(b"application/json", json.dumps({"token_ids": ids}, separators=(",", ":")).encode())
        if len(_rendered) >= MAX_RENDERED:
            del _rendered[next(iter(_rendered))]
        _rendered[body] = found
    return found


class Replica:
    """One replica's streams and counters."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_s: float, phase: float | None = None) -> None:
        """`phase`, from 0 to 1, is where in an interval of the clock its steps fall; None: one interval after its first
        stream begins."""
        self.answered = 0
        self._phase = phase
        self._loop = loop
        self._interval_s = interval_s
        self._streams: dict[StubProtocol, int] = {}
        self._due_s = 0.0

    def begin(self, protocol: StubProtocol, tokens: int) -> None:
        """Stream to this connection from the next step on."""
        if not self._streams:
            self._due_s = self._first_step_s()
            self._loop.call_at(self._due_s, self._step)
        self._streams[protocol] = tokens

    def _first_step_s(self) -> float:
        now_s, interval_s = self._loop.time(), self._interval_s
        if self._phase is None:
            return now_s + interval_s
        return ((now_s / interval_s - self._phase) // 1 + 1 + self._phase) * interval_s

    def forget(self, protocol: StubProtocol) -> None:
        self._streams.pop(protocol, None)

    def _step(self) -> None:
        for protocol, left in list(self._streams.items()):
            if left:
                protocol.write(_TOKEN_WIRE)
                self._streams[protocol] = left - 1
            else:
                protocol.write(_LAST_WIRE)
                del self._streams[protocol]
        if self._streams:
            self._due_s += self._interval_s
            self._loop.call_at(self._due_s, self._step)


class StubProtocol(asyncio.Protocol):
    """One connection to a replica. Bodies need a content-length, which is what every side of the benches sends."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._head = b""
        self._body: list[bytes] = []
        self._left = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._replica.forget(self)
        self.transport = None

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._take_body(data)
            return
        data = self._head + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._head = data
            return
        self._head = data[: end + 2]
        length = _LENGTH.search(self._head)
        self._left = int(length[1]) if length else 0
        self._take_body(data[end + 4 :])

    def _take_body(self, data: bytes) -> None:
        self._body.append(data)
        self._left -= len(data)
        if self._left <= 0:
            head, body = self._head, b"".join(self._body)
            self._head, self._body, self._left = b"", [], 0
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        if method == b"POST" and path.endswith(b"/render"):
            self.write(render(body))
        elif method == b"POST":
            self._replica.answered += 1
            if _STREAM.search(body):
                tokens = _MAX_TOKENS.search(body)
                self.write(_STREAM_HEAD)
                self._replica.begin(self, int(tokens[1]) if tokens else 16)
            else:
                self.write(_ANSWER_WIRE)
        elif path == b"/counts":
            self.write(_whole(b"application/json", str(self._replica.answered).encode()))
        elif path == b"/v1/models":
            self.write(_MODELS_WIRE)
        else:
            self.write(_EMPTY_WIRE)


async def serve(replicas: int, interval_s: float, *, spread: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. With `spread` the steps of replicas are spread over an interval."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for caught in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(caught, stop.set)
    urls = []
    for number in range(replicas):
        replica = Replica(loop, interval_s, number / replicas if spread else None)
        server = await loop.create_server(lambda replica=replica: StubProtocol(replica), "127.0.0.1", 0, backlog=1024)  # type: ignore[misc]
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    print(json.dumps(urls), flush=True)
    await stop.wait()


def main(arguments: list[str] | None = None) -> None:
    options = read_options("stub", __doc__, arguments, replicas=4, token_interval_ms=20.0, spread=False)
    uvloop.run(serve(options.replicas, options.token_interval_ms / 1000, spread=options.spread))


if __name__ == "__main__":
    main(sys.argv[1:])
