"""The least HTTP/1.1 a load generator needs: requests as prebuilt bytes, answers read and counted without I/O.

`AnswerReader` takes the bytes of one connection and says when an answer is complete. It counts the body's bytes and,
in chunked bodies, the server-sent events; it keeps no body. What HTTP/1.1 does not allow, and bytes behind an answer
nobody asked for, raise `BadAnswerError`: a bench must not count what it did not understand.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_HEAD_BYTES = 65_536
MAX_CHUNK_BYTES = 1 << 20
EVENT_END = b"\n\n"
"""Ends a server-sent event (HTML Living Standard 9.2.6); vLLM and we write no other line ends."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


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


class _State(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNKS = auto()
    TRAILER = auto()


class AnswerReader:
    """Reads one answer after another off a connection on which nothing is pipelined."""

    __slots__ = ("_held", "_left", "_odd_newline", "_state", "body_bytes", "closes", "events", "head", "status")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Ready for the next answer; what was counted is forgotten."""
        self._state = _State.HEAD
        self._held = b""
        self._left = 0
        self._odd_newline = False
        self.status = 0
        self.head = b""
        """Status line and headers, once they are complete."""
        self.body_bytes = 0
        self.events = 0
        """Server-sent events that are complete; only chunked bodies are searched."""
        self.closes = False
        """Whether the peer will close the connection behind this answer."""

    def header(self, name: bytes) -> bytes:
        """A header's value, `b""` when it is absent. `name` is in lower case."""
        found = re.search(rb"\r\n" + re.escape(name) + rb":[ \t]*([^\r\n]*)", self.head, re.IGNORECASE)
        return found[1] if found else b""

    def feed(self, data: bytes) -> bool:
        """Take what the socket gave; True when the answer is complete. Raises BadAnswerError."""
        if self._held:
            data = self._held + data
            self._held = b""
        if self._state is _State.HEAD:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES:
                    raise BadAnswerError(f"a head of more than {MAX_HEAD_BYTES} bytes")
                self._held = data
                return False
            self._begin(data[: end + 2])
            data = data[end + 4 :]
        if self._state is _State.LENGTH:
            self.body_bytes += len(data)
            self._left -= len(data)
            if self._left < 0:
                raise BadAnswerError(f"{-self._left} bytes behind the answer")
            return self._left == 0
        return self._feed_chunks(data)

    def _begin(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise BadAnswerError(f"not a status line: {head[:40]!r}")
        self.status = int(head[9:12])
        self.head = head
        self.closes = _CLOSES.search(head) is not None
        if _CHUNKED.search(head):
            self._state = _State.CHUNKS
            return
        length = _LENGTH.search(head)
        if length is None:
            raise BadAnswerError(f"an answer without a length: {head[:40]!r}")
        self._left = int(length[1])
        self._state = _State.LENGTH

    def _feed_chunks(self, data: bytes) -> bool:
        """Whole chunks are taken, the rest is held."""
        at = 0
        while True:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            if self._state is _State.TRAILER:
                if line_end == at:
                    if line_end + 2 != len(data):
                        raise BadAnswerError(f"{len(data) - line_end - 2} bytes behind the answer")
                    return True
                at = line_end + 2
                continue
            size = self._chunk_size(data[at:line_end])
            if not size:
                self._state = _State.TRAILER
                at = line_end + 2
                continue
            start = line_end + 2
            end = start + size
            if end + 2 > len(data):
                break
            if data[end : end + 2] != b"\r\n":
                raise BadAnswerError("a chunk is longer than it says")
            self._count(data[start:end])
            at = end + 2
        self._held = data[at:]
        return False

    @staticmethod
    def _chunk_size(line: bytes) -> int:
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise BadAnswerError(f"not a chunk size: {line[:40]!r}") from None
        if not 0 <= size <= MAX_CHUNK_BYTES:
            raise BadAnswerError(f"a chunk of {size} bytes; at most {MAX_CHUNK_BYTES} are expected")
        return size

    def _count(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        # An event's two newlines may lie in two chunks.
        if self._odd_newline:
            piece = b"\n" + piece
        self.events += piece.count(EVENT_END)
        self._odd_newline = (len(piece) - len(piece.rstrip(b"\n"))) % 2 == 1
