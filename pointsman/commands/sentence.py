"""End of a command: errors as one sentence on standard error, and the exit code.

0: done, or the answer is yes. 1: the router was asked, and the answer is no or "not well". 2: the router could not be
asked, or the command line or a file is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from pointsman.contract.errors import ConfigurationError
from pointsman.errors import EXIT_CONFIGURATION, StartError
from pointsman.router.errors import RouterError


@contextmanager
def one_sentence_on_error() -> Iterator[None]:
    """Turns configuration errors into a sentence on stderr and exit code 2."""
    try:
        yield
    except (StartError, ConfigurationError, RouterError) as error:
        refuse(str(error))


def refuse(sentence: str, code: int = EXIT_CONFIGURATION) -> NoReturn:
    """End the command with a sentence and an exit code."""
    print(f"pointsman: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


def leave_closed_pipe() -> NoReturn:
    """End a command whose reader is gone, such as `head`, without another word."""
    # The interpreter flushes standard output at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)
