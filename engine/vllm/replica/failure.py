"""Why vLLM did not start, in its own words.

The process that asks for an engine is told only "Engine core initialization failed. See root cause above": the cause is
a traceback in the log, logged by the engine's process and repeated by others. `start_failure` finds that one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

LOG_TAIL_BYTES = 256 * 1024
"""Bytes at the end of a log that are searched; vLLM's tracebacks at start take some 20 KiB."""

MESSAGE_CHARACTERS_MAX = 2000

_POINTS_ELSEWHERE = "Engine core initialization failed"

_PREFIX = re.compile(r"^(\([\w-]+ pid=\d+\) )?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[\w./-]+:\d+\] ?)?")
"""vLLM's marks before a line: `(EngineCore pid=7) ERROR 11-23 16:02:11 [core.py:1100] `."""

_PYDANTIC = re.compile(
    r"^\d+ validation errors? for \w+\n\s+|\s*\[type=[^\n]*|\n\s+For further information visit [^\n]*"
)
"""pydantic's text around the sentence that a validator of vLLM raised."""

_RAISED = re.compile(r"^(?:[a-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt): \S")


def start_failure(error: BaseException, logs: Iterable[str]) -> str:
    """One message for a failed start: the exception's own, or the first cause in the logs where it points there."""
    message = f"{type(error).__name__}: {_PYDANTIC.sub('', str(error)).strip()}"
    if _POINTS_ELSEWHERE in message:
        for log in logs:
            cause = first_cause(log)
            if cause:
                message = cause
                break
    return message[:MESSAGE_CHARACTERS_MAX]


def first_cause(log: str) -> str:
    """The last line of the first traceback in a log, with what follows of its message; empty if there is none."""
    lines = iter(log.splitlines())
    for line in lines:
        if _PREFIX.sub("", line, count=1).startswith("Traceback (most recent call last)"):
            break
    found: list[str] = []
    for line in lines:
        prefix = _PREFIX.match(line)
        text = line[prefix.end() :] if prefix else line
        if not found:
            if _RAISED.match(text):
                found.append(text)
        elif text.strip() and not text.startswith("Traceback") and text[0].isspace():
            found.append(text.strip())
        else:
            break
    return " ".join(found)


def last_lines(logs: Iterable[str], count: int = 3) -> str:
    """The last lines that are not empty, for a failure that raised nothing."""
    lines = [line.strip() for log in logs for line in log.splitlines() if line.strip()]
    return " ".join(lines[-count:])[:MESSAGE_CHARACTERS_MAX]


def own_logs() -> list[str]:
    """The ends of this process's standard output and error, where they are files (as Ray's workers' are)."""
    tails = []
    for descriptor in (1, 2):
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.is_file():
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                tails.append(log.read().decode(errors="replace"))
    return tails
