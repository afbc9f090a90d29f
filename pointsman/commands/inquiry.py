"""One question of a command: the client that asks, and the terminal that shows the answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman.admin_client import AdminClient, Answer
from pointsman.commands.shown import ABSENT, flowed

WIDTH = 100
"""Columns where standard output is no terminal, and `COLUMNS` says nothing."""

STATE_STYLES = {
    "up": "green",
    "ready": "green",
    "in-step": "green",
    "starting": "cyan",
    "draining": "yellow",
    "behind": "yellow",
    "degraded": "yellow",
    "ejected": "bold red",
    "down": "bold red",
    "silent": "bold red",
    "refused": "bold red",
    "failed": "bold red",
}
"""Colours of states, which are always written out as well."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A command's client and terminal."""

    client: AdminClient
    console: Console
    as_json: bool = False

    def show(self, answer: Answer, render: Callable[[Any], RenderableType]) -> None:
        """Print an answer: as it came with `--json`, else as `render` makes it of the decoded body."""
        if self.as_json:
            print_raw(answer.body)
        else:
            self.console.print(render(answer.json()))

    def say(self, sentence: str) -> None:
        """Print a sentence for people; nothing with `--json`."""
        if not self.as_json:
            self.console.print(sentence, soft_wrap=True)


def print_raw(body: bytes) -> None:
    """Print the API's own answer unchanged, on a line of its own; nothing for an empty one."""
    if body:
        sys.stdout.flush()
        sys.stdout.buffer.write(body if body.endswith(b"\n") else body + b"\n")
        sys.stdout.buffer.flush()


def make_console() -> Console:
    """Standard output: in colours only on a terminal, and 100 columns wide elsewhere."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else WIDTH
    return Console(width=wide, highlight=False, markup=False, emoji=False)


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    right: Sequence[str] = (),
    flexible: str = "",
) -> Table:
    """A table without lines; columns in which no row has a value are left out.

    right: columns of numbers. flexible: the column whose text wraps where there is not room enough.
    """
    kept_rows = list(rows)
    kept = [at for at in range(len(columns)) if any(str(row[at]) not in ("", ABSENT) for row in kept_rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for at in kept:
        name, cells = columns[at], [str(row[at]) for row in kept_rows]
        if name == flexible:
            table.add_column(name, overflow="fold")
        elif name in right or any(" " in cell for cell in cells):
            # Half a number is a wrong number: where there is no room, names of one word give way.
            widest = max(len(text) for text in (name, *cells))
            table.add_column(name, justify="right" if name in right else "left", no_wrap=True, min_width=widest)
        else:
            table.add_column(name, overflow="ellipsis")
    for row in kept_rows:
        table.add_row(*(row[at] for at in kept))
    return table


def flowed_text(parts: Iterable[str], width: int, *, strong: str = "") -> Text:
    """Parts side by side, in as many lines as they need. strong: the part that counts."""
    text = Text("\n".join(flowed(parts, width)))
    if strong:
        text.highlight_words([strong], "bold")
    return text


def notes(lines: Iterable[str | Text], *, mark: str = "!") -> Iterator[Table]:
    """Lines that a mark leads; one that wraps goes on below its own beginning."""
    for line in lines:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(mark, line)
        yield table


def facts(rows: dict[str, str]) -> Table:
    """Names and values below each other; values that are empty are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table
