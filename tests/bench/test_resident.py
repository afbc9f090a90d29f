"""Memory and context switches of processes."""

from __future__ import annotations

import os

from bench.cpu import ProcessTree
from bench.resident import parse_resident_kib, parse_switches, resident_mb, switches

STATUS = (
    "Name:\tpython\nVmHWM:\t  200 kB\nVmRSS:\t  2048 kB\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n"
)


def test_a_status_page_is_read_by_name() -> None:
    """Resident memory, not its peak; sleeps of a thread's own accord, not those it was made to take."""
    assert parse_resident_kib(STATUS) == 2048
    assert parse_switches(STATUS) == 17


def test_a_process_without_memory_has_none() -> None:
    """A zombie's page has no such line."""
    assert parse_resident_kib("Name:\tdefunct\nState:\tZ (zombie)\n") == 0


def test_this_process_counts_under_its_part() -> None:
    """Megabytes and switches of a living tree, by what its parts are called."""
    tree = ProcessTree(os.getpid(), lambda command: "tests")
    assert resident_mb(tree)["tests"] > 1
    assert switches(tree)["tests"] > 0
