"""The prompts and tokens that a simulated replica computed, in a file that outlives its process.

A test compares the file with what routers counted. It is written from the model's steps, by other code than the reports
to routers, and each step is in the file before its tokens are sent: a replica that is killed has logged all it sent.
"""

from __future__ import annotations

import json
import os
from collections import Counter

from pointsman.engine.sim.answers import Choice, Reply


class RequestLog:
    """The log of one replica: JSON arrays, one a line."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._tokens: Counter[str] = Counter()
        self._lines: list[str] = []

    def prompt(self, reply: Reply, choice: Choice) -> None:
        """A prompt of a request was computed for one of its answers: `["prompt", ID, NUMBER, TOKENS, CACHED, HANDED]`.

        HANDED says whether a prefill replica computed it.
        """
        what = ["prompt", reply.request_id, choice.prompt, choice.prompt_tokens, choice.cached, reply.handed_over]
        self._lines.append(json.dumps(what))

    def token(self, reply: Reply) -> None:
        """An answer of a request has one more token."""
        self._tokens[reply.request_id] += 1

    def write(self) -> None:
        """Append what a step brought: prompts, and `["tokens", {ID: COUNT}]`."""
        if self._tokens:
            self._lines.append(json.dumps(["tokens", self._tokens]))
            self._tokens.clear()
        if self._lines:
            os.write(self._file, "".join(f"{line}\n" for line in self._lines).encode())
            self._lines.clear()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
