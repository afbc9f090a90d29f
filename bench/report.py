"""Results as values: tables for people, numbers for programs, and the machine they were taken on.

A `Table` goes to the terminal and, as Markdown, into docs/benchmarks.md; a `Report` is one run of one or more benches
and is what `bench/results/*.json` hold. `write_docs` copies the tables of a report between the markers of the page, so
that the page shows a run and nobody types figures.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table as RichTable

from bench.cpu import TICK_NS
from pointsman.haproxy.binary import find_binary

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
SURVIVES = DOCS.with_name("what-it-survives.md")
"""Pages that show runs: costs and speed on the first, faults on the second."""
BEGIN = "<!-- results: written by `python -m bench docs` -->"
SCALE = "<!-- scale: written by `python -m bench docs` -->"
AGENTS = "<!-- agents: written by `python -m bench docs` -->"
FAULTS = "<!-- faults: written by `python -m bench docs` -->"
END = "<!-- end of results -->"


class Table(msgspec.Struct, frozen=True):
    """Rows of text under a title. The last column is the verdict where the table has budgets."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = []

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", rows_markdown(self.columns, self.rows)]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)

    def print(self, console: Console) -> None:
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for at, column in enumerate(self.columns):
            table.add_column(column, justify="left" if at == 0 else "right")
        for row in self.rows:
            style = "yellow" if any(cell.startswith("short by") for cell in row) else ""
            table.add_row(*row, style=style)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", highlight=False)


class Report(msgspec.Struct, frozen=True):
    """One run: where, of what, by which command, and what came out."""

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    taken: str
    """Date, UTC."""
    tables: list[Table]
    figures: dict[str, Any]
    """The numbers by bench, in the units their names end in."""

    def json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()

    def markdown(self) -> str:
        where = ", ".join(self.machine.values())
        what = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        head = f"Taken {self.taken} by `{self.command}` on {where}; {what}."
        return "\n\n".join((head, *(table.markdown() for table in self.tables)))


def rows_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, with least and greatest in brackets."""
    ordered = sorted(values)
    middle = median(ordered)
    if len(ordered) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f}-{ordered[-1]:.{digits}f})"


def median(values: Sequence[float]) -> float:
    """The middle value; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory and kernel."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu,
        "cores": f"{_cores()} cores",
        "memory": f"{memory_kib / (1 << 20):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


class Bystanders:
    """CPU that the machine spent on others than this process and its children, since it was made.

    A figure of a machine that did much else says little: latencies wait for a core, and on shared cores CPU times grow
    too.
    """

    def __init__(self) -> None:
        self._began_s, self._busy_s, self._own_s = time.perf_counter(), self._machine_s(), self._process_s()

    def share(self) -> float:
        """Of all cores' time, from 0 to 1; stolen time of a virtual machine included. Children count once reaped."""
        others_s = (self._machine_s() - self._busy_s) - (self._process_s() - self._own_s)
        return max(0.0, others_s / (time.perf_counter() - self._began_s) / _cores())

    @staticmethod
    def _machine_s() -> float:
        # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
        ticks = list(map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]))
        return (sum(ticks) - ticks[3] - ticks[4]) * TICK_NS / 1e9

    @staticmethod
    def _process_s() -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system


def _cores() -> int:
    return sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())


def describe_versions(peers: dict[str, str]) -> dict[str, str]:
    """Versions of ours and of what runs beside it."""
    return {
        "pointsman": f"{version('pointsman')} ({_commit()})",
        "haproxy": find_binary().version,
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        **peers,
    }


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "no git"
    return done.stdout.strip() or "no commit"


def make_report(
    arguments: Sequence[str],
    bystanders: Bystanders,
    peers: dict[str, str],
    tables: list[Table],
    figures: dict[str, Any],
) -> Report:
    """A report of what has just been measured."""
    others = f"others used {bystanders.share() * 100:.0f} % of its CPU meanwhile"
    return Report(
        machine=describe_machine() | {"others": others},
        versions=describe_versions(peers),
        command=shlex.join(["python", "-m", "bench", *arguments]),
        taken=datetime.now(UTC).strftime("%Y-%m-%d"),
        tables=tables,
        figures=figures,
    )


def load_report(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def put_between(page: str, text: str, marker: str = BEGIN) -> str:
    """The page with `text` between `marker` and END. Raises ValueError when one of them is missing."""
    before, begin, rest = page.partition(marker)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the markers {marker!r} and {END!r} are expected")
    return f"{before}{marker}\n\n{text}\n\n{END}{after}"


def write_docs(report: Report, page: Path | None = None) -> None:
    """Puts a report's tables where they belong: by default on the page of its kind, behind the marker of its kind."""
    own_page, marker = place_of(report)
    page = own_page if page is None else page
    page.write_text(put_between(page.read_text(), report.markdown(), marker))


def place_of(report: Report) -> tuple[Path, str]:
    """The page a report's tables go onto, and the marker they go behind."""
    if report.figures.keys() & {"faults", "survival"}:
        return SURVIVES, FAULTS
    if "agentic" in report.figures:
        return DOCS, AGENTS
    return DOCS, SCALE if "scale" in report.figures else BEGIN
