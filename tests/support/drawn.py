"""What a command draws, as text of a terminal 100 columns wide, and commands run in this process."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType
from typer.testing import CliRunner, Result

from pointsman.cli import app

WIDTH = 100


def drawn(renderable: RenderableType, *, width: int = WIDTH) -> str:
    """The text, without blanks at the ends of lines."""
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False, emoji=False).print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def pointsman(*words: str, **options: Any) -> Result:
    """`pointsman WORDS` in this process."""
    return CliRunner(env={"COLUMNS": str(WIDTH)}).invoke(app, words, catch_exceptions=False, **options)


def assert_fits(text: str, width: int = WIDTH) -> None:
    """No line is wider than the terminal, and none ends in the middle of a word that was cut without a sign."""
    too_wide = [line for line in text.splitlines() if len(line) > width]
    assert not too_wide, f"wider than {width}: {too_wide}"
