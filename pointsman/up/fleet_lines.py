"""Lines in which a driver of vLLM replicas says how they are, as the terminal of `pointsman up` shows them."""

from __future__ import annotations

import re

READY = re.compile(r"ready: (\S+) replica=(\S+) start_s=([\d.]+)")
"""Shown without `ready:`, which on this terminal means the whole edge."""

STATE = re.compile(
    r"[A-Za-z0-9_.-]{1,64} (starting|stopped|draining|adopted|died: .*|ended: .*|cut \d+ requests .*|does not answer.*)"
    r"|pool [A-Za-z0-9_.-]{1,64}: .*"
    r"|left: .*"
)

LOGS = re.compile(r"logs: (\S+)")
MAX_LINE = 300
"""Characters shown of a line; all of it is in the log."""


def shown(line: str) -> str | None:
    """Return the terminal's text for a line of the driver's log; None for lines without a state."""
    line = line.rstrip()[:MAX_LINE]
    if found := READY.fullmatch(line):
        return f"{found[2]} serves at {found[1]}, after {found[3]} s"
    if found := LOGS.fullmatch(line):
        return f"logs of Ray: {found[1]}"
    return line if STATE.fullmatch(line) else None
