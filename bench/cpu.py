"""CPU time of a process and everything under it, to the nanosecond.

The kernel keeps one CPU clock per process (`clock_getcpuclockid(3)`): run time of all its threads, ended ones too, and
not counted in ticks of 10 ms as `/proc/<pid>/stat` is. A `ProcessTree` reads that clock for its root and every
descendant. A child that began and ended between two readings is in its parent's `cutime` and `cstime`. A process of the
first reading that is missing in the second took its clock with it: that raises, for the slice is not worth reporting.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Unit of the times in `/proc/<pid>/stat`."""

_libc = ctypes.CDLL(None)


class ProcessEndedError(Exception):
    """A measured process ended between two readings."""


@dataclass(frozen=True)
class Process:
    """One process as `/proc` shows it."""

    pid: int
    parent: int
    command: str
    """Command line, words parted by spaces; the kernel's name for it where there is none."""
    reaped_ns: int
    """CPU time of its children that ended and were waited for."""


@dataclass(frozen=True)
class Reading:
    """CPU clocks at one moment, in nanoseconds by process id."""

    own_ns: dict[int, int]
    reaped_ns: dict[int, int]
    part: dict[int, str]


def parse_stat(text: str) -> tuple[str, int, int]:
    """Name, parent and CPU time of reaped children (ns) out of `/proc/<pid>/stat` (proc_pid_stat(5))."""
    # The name is in parentheses and may itself hold parentheses and spaces.
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, int(fields[1]), (int(fields[13]) + int(fields[14])) * TICK_NS


def read_process(pid: int) -> Process | None:
    """One process; None when there is no such process."""
    folder = Path(f"/proc/{pid}")
    try:
        name, parent, reaped_ns = parse_stat((folder / "stat").read_text())
        command = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, parent, command or name, reaped_ns)


def children_of(pid: int) -> list[int]:
    """Ids of the children of any of its threads (proc_pid_task(5), `children`)."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended while we looked
                found += map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants(root: int) -> list[Process]:
    """`root` and all under it, parents first; empty when there is no such process."""
    tree: list[Process] = []
    pids = [root]
    for pid in pids:  # grows while it is walked
        process = read_process(pid)
        if process is not None:
            tree.append(process)
            pids += children_of(pid)
    return tree


def process_cpu_ns(pid: int) -> int:
    """The CPU clock of a process. Raises ProcessEndedError when there is none."""
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessEndedError(f"process {pid} has ended")
    try:
        return time.clock_gettime_ns(clock.value)
    except OSError:
        raise ProcessEndedError(f"process {pid} has ended") from None


class ProcessTree:
    """The CPU clocks of a process and its descendants, summed by what `part` makes of each command line."""

    def __init__(self, root: int, part: Callable[[str], str] = lambda command: "all") -> None:
        self.root = root
        self._part = part

    def members(self) -> list[Process]:
        """The processes of the tree as it stands."""
        return descendants(self.root)

    def read(self) -> Reading:
        """The clocks at this moment. Raises ProcessEndedError when the root has ended."""
        own_ns: dict[int, int] = {}
        members = self.members()
        if not members:
            raise ProcessEndedError(f"process {self.root} has ended")
        for process in members:
            try:
                own_ns[process.pid] = process_cpu_ns(process.pid)
            except ProcessEndedError:
                if process.pid == self.root:
                    raise
        return Reading(
            own_ns,
            {process.pid: process.reaped_ns for process in members},
            {process.pid: self._part(process.command) for process in members},
        )


def used_s(before: Reading, after: Reading) -> dict[str, float]:
    """CPU seconds by part between two readings of a tree. Raises ProcessEndedError when one of the first has ended."""
    gone = before.own_ns.keys() - after.own_ns.keys()
    if gone:
        raise ProcessEndedError(f"of the measured processes these ended meanwhile: {', '.join(map(str, sorted(gone)))}")
    used: dict[str, int] = {}
    for pid, now_ns in after.own_ns.items():
        ns = now_ns - before.own_ns.get(pid, 0) + after.reaped_ns[pid] - before.reaped_ns.get(pid, 0)
        part = after.part[pid]
        used[part] = used.get(part, 0) + ns
    return {part: ns / 1e9 for part, ns in used.items()}
