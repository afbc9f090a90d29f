"""Clients of `bench.queueing`: one bare HTTP/1.1 connection for each request, so that one can leave at any time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.edge import PATH

USAGE_BYTES = 400
TOTAL = re.compile(rb'"total_tokens":\s*(\d+)')

NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Answer:
    """One request as its client saw it; times of `time.perf_counter`."""

    label: str
    sent_s: float
    first_s: float = 0.0
    end_s: float = 0.0
    status: int = 0
    reason: str = ""
    tokens: int = 0
    """Prompt and output together, as a whole answer tells its client; 0 for a stream."""

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.first_s - self.sent_s)


@dataclass
class Clients:
    """Clients of one edge, and what they were answered, in the order of the ends."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    writers: dict[str, asyncio.StreamWriter] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(
        self,
        label: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        tokens: int = 1,
        words: int = 20,
        streams: bool = True,
    ) -> None:
        """Sends a request on a connection of its own."""
        task = asyncio.create_task(self._ask(label, tokens, words, streams, headers), name=label)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _ask(self, label: str, tokens: int, words: int, streams: bool, headers: Mapping[str, str]) -> None:
        content = f"{label} " + "and so on " * (words // 3)
        body = json.dumps(
            {
                "model": "sim",
                "messages": [{"role": "user", "content": content}],
                "max_tokens": tokens,
                "ignore_eos": True,
                "stream": streams,
            }
        ).encode()
        lines = [f"POST {PATH} HTTP/1.1", "Host: bench", "Content-Type: application/json", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers[label] = writer
        answer = Answer(label, time.perf_counter())
        try:
            writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            answer.status = int(head.split(" ", 2)[1])
            answer.reason = head.partition("x-pointsman-reason: ")[2].partition("\r\n")[0]
            await reader.readuntil(b"content")
            answer.first_s = time.perf_counter()
            rest = b""
            while piece := await reader.read(65536):
                rest = rest[-USAGE_BYTES:] + piece
            found = TOTAL.search(rest)
            answer.tokens = int(found[1]) if found else 0
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            answer.end_s = time.perf_counter()
            self.answers.append(answer)
            self.writers.pop(label, None)
            writer.close()

    def leave(self, labels: Iterable[str]) -> None:
        """Closes the connections of some clients."""
        for label in labels:
            self.writers[label].close()

    async def all_answered(self, besides: str = "") -> None:
        """Waits until nothing is under way, or one request alone."""
        while tasks := {task for task in self.tasks if task.get_name() != besides}:
            await asyncio.wait(tasks)
