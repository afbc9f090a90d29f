"""An admin API that tells what a test gave it, for commands that ask: fixed answers, streams, refusals.

A thread serves it, since the commands under test wait for their answers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Told:
    """One answer."""

    body: Any = None
    """Plain values are sent as JSON, bytes as they are; None for no body."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[bytes, ...] = ()
    """Lines of a stream that then ends; `body` is not sent."""

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


def problem(status: int, detail: str) -> Told:
    """A refusal as the router sends it."""
    document = {"type": "/docs/problems#x", "title": "No", "status": status, "detail": detail}
    return Told(document, status, {"content-type": "application/problem+json"})


class TellingAdmin:
    """`answers` by method and path; of several answers in a list each is given once, and the last one for ever."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = {key: list(told) if isinstance(told, list) else [told] for key, told in answers.items()}
        self.asked: list[Asked] = []
        self.url = ""

    def answer(self, asked: Asked) -> Told:
        self.asked.append(asked)
        told = self._answers.get(f"{asked.method} {asked.path}")
        if told is None:
            return problem(404, "Not Found")
        one = told.pop(0) if len(told) > 1 else told[0]
        return one if isinstance(one, Told) else Told(one)


@contextmanager
def telling_admin(answers: Mapping[str, Any]) -> Iterator[TellingAdmin]:
    """Serve answers by `METHOD /path`; anything else is a path that this router does not have."""
    admin = TellingAdmin(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked = Asked(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                json.loads(sent) if sent else None,
                {name.lower(): value for name, value in self.headers.items()},
            )
            told = admin.answer(asked)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            if told.lines:
                self.send_header("connection", "close")
            else:
                self.send_header("content-length", str(len(told.content)))
            self.end_headers()
            for line in told.lines:
                self.wfile.write(line + b"\n")
                self.wfile.flush()
            if not told.lines:
                self.wfile.write(told.content)
            self.close_connection = bool(told.lines)

        def log_message(self, *_: Any) -> None:
            """Tests read what was asked in `asked`."""

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._serve)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    admin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield admin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
