"""The last health check of a server, as a row of `show stat` describes it (management.txt 9.1).

A look at HAProxy brings a row for each server, and hardly ever does somebody ask for its check. So `CheckRow` keeps the
text as it came, and reads it when asked.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

NEVER_DONE = ("", "UNK", "INI")
"""Words of `check_status` before the first check of a server ended."""

COLUMNS = ("check_status", "check_code", "check_duration", "last_chk", "check_desc")
"""HAProxy's names of the fields of `CheckColumns`."""

RUNNING = "* "
"""Mark before the status of the check before, while another one runs."""


class LastCheck(NamedTuple):
    """Result of one health check."""

    status: str
    """HAProxy's word for the result: `L7OK`, `L7STS`, `L4CON`, `L4TOUT` ..."""
    code: int
    """HTTP status of the answer; 0 where there was none."""
    duration_ms: int
    """Time that the check took, in milliseconds; -1 where HAProxy does not say."""
    description: str
    """The status in words: `Layer7 wrong status`."""
    output: str
    """Words that HAProxy adds to that, such as `Connection refused`; empty where it adds none."""

    @property
    def detail(self) -> str:
        """The result in words: `Layer7 wrong status, code 404: Not Found`."""
        words = self.description or self.status
        if self.code:
            words += f", code {self.code}"
        return f"{words}: {self.output}" if self.output else words


class CheckColumns(NamedTuple):
    """Places of the columns that tell of a check in a `CheckRow`'s text; -1 for a column that there is not."""

    status: int
    code: int
    duration: int
    output: int
    description: int

    @classmethod
    def among(cls, names: Sequence[str]) -> CheckColumns:
        """Find the columns by their names."""
        places = {name: at for at, name in enumerate(names)}
        return cls(*(places.get(name, -1) for name in COLUMNS))


class CheckRow(NamedTuple):
    """The part of a server's row that has its health check, as text."""

    columns: CheckColumns
    text: str

    def read(self) -> LastCheck | None:
        """Return the last check that ended; None before the first."""
        # Texts that come from servers are quoted, and may hold commas.
        values = next(csv.reader((self.text,)), [])
        status, code, duration, output, description = (
            values[at] if 0 <= at < len(values) else "" for at in self.columns
        )
        status = status.removeprefix(RUNNING)
        if status in NEVER_DONE:
            return None
        return LastCheck(status, _number(code, 0), _number(duration, -1), description, output)


NO_CHECK = CheckRow(CheckColumns.among(()), "")
"""The row of a server that nobody checks."""


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise
