"""docs/tour.md: its commands, in order, against a running edge."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from edge import RunningEdge, running_up, until
from pages import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.system]

PAGE = ROOT / "docs" / "tour.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", flags=re.M | re.S)


async def run(block: str, edge: RunningEdge, folder: Path) -> str:
    """What the commands of a block print; each must succeed, unless it says that it may not."""
    text = block.replace("http://127.0.0.1:8000", edge.url).replace("http://127.0.0.1:8001", edge.admin_url)
    # A test kills what it started itself: other edges on this machine have replicas of the same name.
    text = text.replace("pkill -9 -f -- '--id sim-3'", f"kill -9 {edge.replica('sim-3').pid}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "POINTSMAN_ADMIN_URL": edge.admin_url, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", text),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, f"{text}\n{printed.decode()}"
    return printed.decode()


async def test_the_tour_can_be_followed(tmp_path: Path) -> None:
    """Every command works in the order of the page, and shows what the page says that it shows."""
    blocks = BLOCK.findall(PAGE.read_text())
    async with running_up(4) as edge:

        async def all_up() -> bool:
            return set((await edge.states()).values()) == {"up"}

        await until(all_up)
        shown = [await run(block, edge, tmp_path) for block in blocks]
    by_command = dict(zip((block.split("\n", 1)[0] for block in blocks), shown, strict=True))
    assert "kv_cost" in by_command["pointsman status"] and "4 up" in by_command["pointsman status"]
    why = by_command["pointsman decisions -n 5"]
    assert "kv-home" in why and "queue" in why and "miss" in why
    tried = by_command["pointsman policy get"]
    assert "least_load" in tried and "the tour is over" in tried
    assert "draining" in by_command["pointsman drain sim-2"]
    broken = next(text for command, text in by_command.items() if command.startswith("pkill"))
    assert "sim-3" in broken
