"""The least HTTP/1.1 a load generator needs: requests as prebuilt bytes, answers read and counted without I/O.

`AnswerReader` takes the bytes of one connection, which httptools parses, and says when an answer is complete. It counts
the body's bytes and, in chunked bodies, the server-sent events; it keeps no body. What HTTP/1.1 does not allow, and
bytes behind an answer, raise `BadAnswerError`: a bench must not count what it did not understand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import httptools

MAX_HEAD_BYTES = 65_536
EVENT_END = b"\n\n"
"""Ends a server-sent event (HTML Living Standard 9.2.6); vLLM and we write no other line ends."""


class BadAnswerError(Exception):
    """The peer's bytes are not an HTTP/1.1 answer to the request that was sent."""


@dataclass(frozen=True)
class Request:
    """A request as it goes onto the wire. Heads differ by session; bodies are shared."""

    head: bytes
    body: bytes

    @classmethod
    def post(cls, path: str, body: bytes, *, session: str = "") -> Request:
        lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json"]
        if session:
            lines.append(f"x-session-id: {session}")
        lines.append(f"Content-Length: {len(body)}")
        return cls("\r\n".join((*lines, "", "")).encode(), body)


def chat_body(size: int, *, topic: str = "", max_tokens: int = 1, stream: bool = False, **more: object) -> bytes:
    """A chat request of exactly `size` bytes: a system prompt, then as many turns as fit.

    Bodies share the system prompt, and what follows where `topic` is the same. It names no model, so that any replica
    takes it; `more` are further fields. Raises ValueError when `size` is too small.
    """

    def encoded(messages: list[dict[str, str]]) -> bytes:
        document = {"messages": messages, "max_tokens": max_tokens, "stream": stream, **more}
        return json.dumps(document, separators=(",", ":")).encode()

    words = "the replica that holds the prefix answers first and the others wait for their turn "
    messages = [{"role": "system", "content": words}]
    turn = {"role": "user", "content": (f"{topic} {words}" * 13)[:1000]}
    turns = (size - len(encoded(messages))) // (len(json.dumps(turn, separators=(",", ":"))) + 1)
    messages += [turn] * max(0, turns - 1)
    messages.append({"role": "user", "content": ""})
    missing = size - len(encoded(messages))
    if missing < 0:
        raise ValueError(f"size: {size}: at least {size - missing} bytes are expected")
    messages[-1] = {"role": "user", "content": (f"{topic} {words}" * (missing // len(words) + 1))[:missing]}
    return encoded(messages)


class AnswerReader:
    """Reads one answer after another off a connection on which nothing is pipelined."""

    __slots__ = ("_chunked", "_complete", "_head_bytes", "_headers", "_odd_newline", "_parser", "body_bytes", "events")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Get ready for the next answer; what was counted is forgotten."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._chunked = self._complete = self._odd_newline = False
        self.body_bytes = 0
        self.events = 0
        """Server-sent events that are complete; only chunked bodies are searched."""

    @property
    def status(self) -> int:
        """The status code, once the head is complete."""
        return int(self._parser.get_status_code())

    @property
    def closes(self) -> bool:
        """Whether the peer will close the connection behind this answer."""
        return self.header(b"connection").lower() == b"close"

    def header(self, name: bytes) -> bytes:
        """A header's value, `b""` when it is absent. `name` is in lower case."""
        return self._headers.get(name, b"")

    def feed(self, data: bytes) -> bool:
        """Take what the socket gave; True when the answer is complete. Raises BadAnswerError."""
        if self._head_bytes >= 0:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise BadAnswerError(str(error.__context__)) from error
        except httptools.HttpParserError as error:
            raise BadAnswerError(f"{error}: {data[:40]!r}") from error
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadAnswerError(f"a head of more than {MAX_HEAD_BYTES} bytes")
        return self._complete

    # Called by httptools

    def on_message_begin(self) -> None:
        if self._complete:
            raise BadAnswerError("bytes behind the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        if self._parser.get_http_version() != "1.1":
            raise BadAnswerError(f"HTTP/{self._parser.get_http_version()}")
        self._chunked = self.header(b"transfer-encoding").lower() == b"chunked"
        if not self._chunked and b"content-length" not in self._headers:
            raise BadAnswerError("an answer without a length")

    def on_body(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self._chunked:
            # An event's two newlines may lie in two pieces.
            if self._odd_newline:
                piece = b"\n" + piece
            self.events += piece.count(EVENT_END)
            self._odd_newline = (len(piece) - len(piece.rstrip(b"\n"))) % 2 == 1

    def on_message_complete(self) -> None:
        self._complete = True
