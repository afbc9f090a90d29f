"""CPU clocks of processes and their children."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.cpu import (
    TICK_NS,
    Process,
    ProcessEndedError,
    ProcessTree,
    Reading,
    descendants,
    parse_stat,
    process_cpu_ns,
    used_s,
)

BURN_NS = 50_000_000

# A process that burns CPU when told to, in a child that lives on ("alive"), or in one that ends ("gone").
PARENT = f"""
import os, sys, time
def burn():
    until = time.process_time_ns() + {BURN_NS}
    while time.process_time_ns() < until:
        pass
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        burn()
        if line.strip() == "gone":
            os._exit(0)
        print("burnt", flush=True)
        time.sleep(3600)
    if line.strip() == "gone":
        os.waitpid(pid, 0)
        print("burnt", flush=True)
"""


@contextmanager
def burner() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        tell(process)
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def tell(process: subprocess.Popen[str], words: str = "") -> None:
    """Send a line, if any, and wait for the answer."""
    assert process.stdin is not None and process.stdout is not None
    if words:
        process.stdin.write(words + "\n")
        process.stdin.flush()
    assert process.stdout.readline()


def test_stat_is_read_behind_the_name() -> None:
    """A name with spaces and parentheses does not shift the fields."""
    fields = "S 17 1 1 0 -1 0 0 0 0 0 900 90 30 12 20 0 1 0 100 0 0"
    assert parse_stat(f"42 (a (b) c) {fields}\n") == ("a (b) c", 17, 42 * TICK_NS)


def test_a_living_child_counts() -> None:
    """CPU time of a child that is still there is read off its own clock."""
    with burner() as process:
        tree = ProcessTree(process.pid)
        before = tree.read()
        tell(process, "alive")
        after = tree.read()
        assert len(after.own_ns) == len(before.own_ns) + 1
        assert used_s(before, after)["all"] >= BURN_NS / 1e9


def test_a_child_that_came_and_went_counts() -> None:
    """CPU time of a child that began and ended in between is in its parent's `cutime`, in ticks."""
    with burner() as process:
        tree = ProcessTree(process.pid)
        before = tree.read()
        tell(process, "gone")
        assert used_s(before, tree.read())["all"] >= (BURN_NS - 2 * TICK_NS) / 1e9


def test_parts_are_told_by_command_lines() -> None:
    """What a process counts as is said by its command line."""
    with burner() as process:
        tree = ProcessTree(process.pid, lambda command: "python" if "import os" in command else "other")
        before = tree.read()
        tell(process, "alive")
        assert used_s(before, tree.read()).keys() == {"python"}


def test_used_adds_clocks_new_processes_and_reaped_children() -> None:
    """The arithmetic: differences of clocks, whole clocks of newcomers, differences of what was reaped."""
    before = Reading({1: 1_000, 2: 500}, {1: 0, 2: 0}, {1: "router", 2: "haproxy"})
    after = Reading({1: 4_000, 2: 700, 3: 90}, {1: 10_000, 2: 0, 3: 0}, {1: "router", 2: "haproxy", 3: "haproxy"})
    assert used_s(before, after) == {"router": pytest.approx(13_000 / 1e9), "haproxy": pytest.approx(290 / 1e9)}


def test_a_process_that_ended_in_between_is_an_error() -> None:
    """Its clock went with it: the slice says nothing."""
    before = Reading({1: 1_000, 2: 500}, {1: 0, 2: 0}, {1: "all", 2: "all"})
    with pytest.raises(ProcessEndedError, match="2"):
        used_s(before, Reading({1: 2_000}, {1: 0}, {1: "all"}))


def test_a_tree_without_its_root_is_an_error() -> None:
    """There is no tree to read once the root has ended, and no clock."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessEndedError):
        ProcessTree(process.pid).read()
    with pytest.raises(ProcessEndedError):
        process_cpu_ns(process.pid)
    assert descendants(process.pid) == []


def test_a_process_knows_its_command_line() -> None:
    """The command line has its words parted by spaces."""
    (own, *_) = descendants(os.getpid())
    assert isinstance(own, Process) and own.pid == os.getpid() and own.parent == os.getppid()
    assert "pytest" in own.command or "python" in own.command
