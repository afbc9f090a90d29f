"""The console blocks of a page, run by a shell as somebody would who follows the page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^```console\n(.*?)^```", flags=re.M | re.S)

MARK = "--- end of a command ---"

REACH_S = 30.0
"""How long one command may take."""


class Command(NamedTuple):
    """One command of a page and the answer that stands below it."""

    text: str
    shown: str


def console_commands(page: Path) -> Iterator[Command]:
    """The commands of a page, in order."""
    for block in BLOCK.findall(page.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.M):
            if part.strip():
                text, _, shown = part.partition("\n")
                yield Command(text, shown.strip("\n"))


class Shell:
    """A bash that keeps what earlier commands set."""

    def __init__(self, process: asyncio.subprocess.Process, replaced: Mapping[str, str]) -> None:
        self._process = process
        self._replaced = replaced

    async def run(self, command: str) -> str:
        """What a command prints. AssertionError where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for shown, real in self._replaced.items():
            command = command.replace(shown, real)
        self._process.stdin.write(f"{command}\necho {MARK} $?\n".encode())
        await self._process.stdin.drain()
        lines: list[str] = []
        async with asyncio.timeout(REACH_S):
            while not (line := (await self._process.stdout.readline()).decode()).startswith(MARK):
                assert line, f"the shell ended: {command}"
                lines.append(line)
        printed = "".join(lines).rstrip("\n")
        assert line.split()[-1] == "0", f"{command}: {printed}"
        return printed


@asynccontextmanager
async def shell(folder: Path, replaced: Mapping[str, str]) -> AsyncIterator[Shell]:
    """A shell in a folder of its own; `replaced` are texts of the page and what stands for them."""
    process = await asyncio.create_subprocess_exec(
        "bash", cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Shell(process, replaced)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
