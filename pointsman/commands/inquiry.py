"""One question of a command: the client that asks, and the terminal that shows the answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
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
    """What a command asks with, and how it answers."""

    client: AdminClient
    console: Console
    as_json: bool = False

    def show(self, answer: Answer, render: Callable[[Any], RenderableType]) -> None:
        """Print an answer: as it came with `--json`, else as `render` makes it of the decoded body."""
        if self.as_json:
            print_raw(answer.body)
        else:
            self.console.print(render(answer.json()))


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
        name = columns[at]
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name != flexible,
            overflow="fold" if name == flexible else "ellipsis",
        )
    for row in kept_rows:
        table.add_row(*(row[at] for at in kept))
    return table


def flowed_text(parts: Iterable[str], width: int, *, style: str = "") -> Text:
    """Parts side by side, in as many lines as they need; the first line in a style."""
    first, *others = flowed(parts, width) or [""]
    text = Text(first, style=style)
    for line in others:
        text.append(f"\n{line}", style="none")
    return text


def facts(rows: dict[str, str]) -> Table:
    """Names and values below each other; values that are empty are left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table
