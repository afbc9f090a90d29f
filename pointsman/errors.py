"""Errors that end a command with one sentence and exit code 2."""

from __future__ import annotations

EXIT_CONFIGURATION = 2


class StartError(Exception):
    """The command cannot do its work as asked: the sentence says what is wrong and what to do about it."""


class NotReadyError(StartError):
    """A part that was started did not become ready: its log says why."""
