"""Keys of a terminal, without Enter."""

from __future__ import annotations

import os
import pty
import sys
import termios
from collections.abc import Iterator

import pytest

from pointsman.commands.keys import Keys


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of a terminal that standard input is connected to."""
    keyboard, terminal = pty.openpty()
    stdin = os.fdopen(terminal, "r")
    monkeypatch.setattr(sys, "stdin", stdin)
    yield keyboard
    stdin.close()
    os.close(keyboard)


def test_a_key_is_heard_without_enter(keyboard: int) -> None:
    """Others before it are dropped."""
    with Keys() as keys:
        assert not keys.pressed("q")
        os.write(keyboard, b"xxq")
        assert keys.pressed("q", within_s=5)
        os.write(keyboard, b"x")
        assert not keys.pressed("q", within_s=0.2)


def test_the_terminal_is_left_as_it_was(keyboard: int) -> None:
    """A shell without echo would be of no use."""
    before = termios.tcgetattr(sys.stdin.fileno())
    with Keys():
        assert not termios.tcgetattr(sys.stdin.fileno())[3] & termios.ICANON
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_nothing_is_pressed_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe with a `q` in it is no keyboard."""
    with open(os.devnull) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with Keys() as keys:
            assert not keys.pressed("q", within_s=0.01)
