"""Memory and context switches of the processes of a side, as `/proc` counts them."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from pathlib import Path

from bench.cpu import ProcessTree

_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
_SWITCHES = re.compile(r"^voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)


def parse_resident_kib(status: str) -> int:
    """Resident memory out of `/proc/<pid>/status` (proc_pid_status(5)); 0 for a process that has none left."""
    found = _RESIDENT.search(status)
    return int(found[1]) if found else 0


def parse_switches(status: str) -> int:
    """Voluntary context switches of a thread, out of its `status`."""
    found = _SWITCHES.search(status)
    return int(found[1]) if found else 0


def resident_mb(tree: ProcessTree) -> dict[str, float]:
    """MiB by part. Pages that processes share count for each of them."""
    sums: dict[str, float] = defaultdict(float)
    for pid, part in tree.read().part.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            sums[part] += parse_resident_kib(Path(f"/proc/{pid}/status").read_text()) / 1024
    return dict(sums)


def switches(tree: ProcessTree) -> dict[str, int]:
    """Voluntary context switches by part, of all threads: each is a wait for something, and so a later wake-up."""
    sums: dict[str, int] = defaultdict(int)
    for pid, part in tree.read().part.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                sums[part] += parse_switches((thread / "status").read_text())
    return dict(sums)
