"""Keys as they are pressed, without Enter, while a command draws."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any

MAX_BYTES = 1024
"""Bytes taken at a time: what a person types, or pastes by mistake."""


class Keys:
    """Standard input of a terminal, key by key; nothing is ever pressed where it is no terminal."""

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        if self._descriptor >= 0:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def pressed(self, key: str, *, within_s: float = 0.0) -> bool:
        """Whether a key was pressed, now or within so many seconds; other keys are dropped."""
        if self._descriptor < 0:
            select.select([], [], [], within_s)
            return False
        while select.select([self._descriptor], [], [], within_s)[0]:
            # Past Python's own buffer, which `select` cannot see.
            if key.encode() in os.read(self._descriptor, MAX_BYTES):
                return True
            within_s = 0.0
        return False
