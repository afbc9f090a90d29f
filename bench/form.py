"""One form for benches run by themselves, `python -m bench.NAME`: options, rounds by turns, and what is printed.

Figures go to stdout as lines for people or, with `--json`, as one document; both say on which machine they were taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Case = TypeVar("Case", bound=Hashable)


def read_options(bench: str, said: str | None, given: Sequence[str] | None, **defaults: Any) -> argparse.Namespace:
    """Options of a bench: `--json`, and one by the name of each default, of its type; a list takes several values, and
    a tuple is what stands before the options.

    bench: name of the module.
    said: docstring of the module, which `--help` shows.
    given: arguments; None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{bench}", description=said, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        elif isinstance(default, tuple):
            parser.add_argument(name, type=type(default[0]), nargs="*", default=default)
        elif isinstance(default, list):
            parser.add_argument(flag, type=type(default[0]), nargs="+", default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"{default} where not given")
    return parser.parse_args(given)


def by_turns(rounds: int, cases: Mapping[Case, Callable[[], float]]) -> dict[Case, list[float]]:
    """Measure each case once a round, so that a slow spell of the machine falls on all."""
    found: dict[Case, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, measure in cases.items():
            found[case].append(measure())
    return found


def median_and_best(values: Sequence[float], digits: int = 2) -> tuple[float, float]:
    """Median over rounds, and the best round, which a busy machine disturbs least."""
    return round(statistics.median(values), digits), round(min(values), digits)


def show(as_json: bool, figures: Mapping[str, Any], lines: Iterable[str], **versions: str) -> None:
    """Print figures as JSON, or `lines` for people, with the machine and the versions they were taken on."""
    machine = {
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **versions,
    }
    if as_json:
        print(json.dumps({**machine, **figures}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()), *lines, sep="\n")


def row(label: str, cells: Iterable[str], width: int = 16) -> str:
    """A line of a table: label to the left, cells to the right."""
    return f"{label:<34}" + "".join(f"{cell:>{width}}" for cell in cells)
