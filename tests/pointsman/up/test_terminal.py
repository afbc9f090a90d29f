"""What `up` says: sentences, whoever reads them."""

from __future__ import annotations

import errno
import io

import pytest
from rich.console import Console

from pointsman.up import fleet_lines
from pointsman.up.terminal import Terminal, as_people_read, how_it_ended


def test_progress_is_a_line_for_each_change() -> None:
    """Where no terminal is: the same words again say nothing."""
    out = io.StringIO()
    terminal = Terminal(Console(file=out))
    for text in ("replicas up: 0 of 2", "replicas up: 0 of 2", "replicas up: 2 of 2"):
        terminal.progress(text)
    terminal.say("[sim-1] was killed")
    assert out.getvalue() == "replicas up: 0 of 2\nreplicas up: 2 of 2\n[sim-1] was killed\n"


def test_a_terminal_that_is_gone_fails_nobody() -> None:
    """The supervisor goes on without one."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    terminal = Terminal(Console(file=Gone()))
    terminal.say("HAProxy was killed")
    terminal.progress("starting")
    terminal.end_progress()


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "was killed by SIGKILL"), (1, "ended with code 1"), (-200, "was killed by signal 200")],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    """Signals by their names."""
    assert how_it_ended(code) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param(
            '{"event": "state not saved", "error": "disk full", "level": "error"}', "state not saved: disk full"
        ),
        pytest.param('{"event": "router serving"}', "router serving"),
        pytest.param('{"other": 1}', '{"other": 1}'),
        pytest.param("ValueError: x", "ValueError: x"),
    ],
)
def test_a_line_of_a_log_in_words(line: str, words: str) -> None:
    """Structured ones lose what only machines read."""
    assert as_people_read(line) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("vllm-2 died: CUDA error; starts again in 1 s", "vllm-2 died: CUDA error; starts again in 1 s"),
        ("ready: http://127.0.0.1:1 replica=vllm-1 start_s=12.3", "vllm-1 serves at http://127.0.0.1:1, after 12.3 s"),
        ("pool chat: 2 of 4 ready", "pool chat: 2 of 4 ready"),
        ("logs: /tmp/ray/session_latest/logs", "logs of Ray: /tmp/ray/session_latest/logs"),
        ("vllm-1 starting", "vllm-1 starting"),
        ('{"event": "registered", "level": "info"}', None),
        ("INFO 11-29 [core.py:1] Initializing a V1 LLM engine", None),
        ("control: http://127.0.0.1:1", None),
    ],
)
def test_lines_of_a_fleets_driver(line: str, words: str | None) -> None:
    """Those that tell how a replica is; never with `ready:`, which is the whole edge's word."""
    assert fleet_lines.shown(line) == words
