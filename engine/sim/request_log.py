"""The prompts and tokens that a simulated replica computed, in a file that outlives its process.

A test compares the file with what routers counted. It is written from the model's steps, by other code than the reports
to routers, and each step is in the file before the next one begins. Several processes may append to one file.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter

from pointsman.engine.sim.answers import Choice, Reply

TAG_HEADER = b"x-request-tag"
"""Header by which a test names its request."""


class RequestLog:
    """The log of one process: JSON arrays, one a line. An *attempt* is one request in one process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._tokens: Counter[str] = Counter()
        self._lines: list[str] = []

    def begin(self, reply: Reply, tag: str) -> None:
        """A request arrived: `["begin", ATTEMPT, ID, TAG]`. tag: the client's name for it."""
        self._lines.append(json.dumps(["begin", _attempt(reply), reply.request_id, tag]))

    def prompt(self, reply: Reply, choice: Choice) -> None:
        """A prompt was computed for one answer: `["prompt", ATTEMPT, ID, NUMBER, TOKENS, CACHED, HANDED]`.

        HANDED says whether a prefill replica computed it.
        """
        where = (_attempt(reply), reply.request_id, choice.prompt)
        self._lines.append(json.dumps(["prompt", *where, choice.prompt_tokens, choice.cached, reply.handed_over]))

    def token(self, reply: Reply) -> None:
        """An answer of a request has one more token."""
        self._tokens[_attempt(reply)] += 1

    def end(self, reply: Reply) -> None:
        """A request ended, whole or aborted: `["end", ATTEMPT, ID, TIME]`, in seconds since 1970."""
        self._lines.append(json.dumps(["end", _attempt(reply), reply.request_id, time.time()]))

    def write(self) -> None:
        """Append what a step brought, tokens as `["tokens", {ATTEMPT: COUNT}]`."""
        if self._tokens:
            self._lines.insert(0, json.dumps(["tokens", self._tokens]))
            self._tokens.clear()
        if self._lines:
            os.write(self._file, "".join(f"{line}\n" for line in self._lines).encode())
            self._lines.clear()

    def close(self) -> None:
        """Close the file."""
        self.write()
        os.close(self._file)


def _attempt(reply: Reply) -> str:
    return f"{os.getpid()}.{reply.choices[0].request_id}"
