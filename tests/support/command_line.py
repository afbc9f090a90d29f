"""Whether a command line is one `pointsman` takes, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from pointsman.cli import app


def accept(words: Sequence[str]) -> dict[str, Any]:
    """The arguments `pointsman WORDS` is called with. ValueError when it takes no such words."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise ValueError(f"pointsman {' '.join(words)}: one of {', '.join(command.commands)} is expected")
        command = command.commands[rest.pop(0)]
    parser = command.make_parser(command.context_class(command))
    try:
        values, left, _ = parser.parse_args(rest)
    except Exception as error:  # the command line library keeps its own exceptions to itself
        raise ValueError(f"pointsman {' '.join(words)}: {error}") from error
    if left:
        raise ValueError(f"pointsman {' '.join(words)}: {left} is too much")
    return dict(values)
