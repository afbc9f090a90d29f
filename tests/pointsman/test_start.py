"""What a process loads before it serves: nothing that only others of the fleet need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROUTER_ALONE = """
import asyncio
from pointsman.router.app import Router
from pointsman.router.settings import load_settings

async def build():
    Router(load_settings(environment={}))

asyncio.run(build())
"""

SIMULATED_ENGINE = "import pointsman.commands.engine, pointsman.engine.sim.config, pointsman.engine.sim.server"


@pytest.mark.parametrize(
    ("starts", "spared"),
    [
        pytest.param(ROUTER_ALONE, {"jinja2", "redis"}, id="router that shares nothing"),
        pytest.param(SIMULATED_ENGINE, {"jinja2", "numpy", "starlette"}, id="simulated engine"),
    ],
)
def test_a_process_loads_only_what_it_uses(starts: str, spared: set[str]) -> None:
    """A fresh interpreter with all of the process's parts built has not imported the packages it is spared."""
    told = subprocess.run(
        [sys.executable, "-c", f"{starts}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not spared & set(told.stdout.split())
