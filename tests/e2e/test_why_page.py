"""docs/why-did-this-request-go-there.md: its commands, run on a whole edge, answer what the page shows."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from console_page import Shell, console_commands, shell
from edge import running_up

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "why-did-this-request-go-there.md"


def shape(value: Any) -> Any:
    """A value with any number as 0: times, costs and counts of tokens differ from run to run."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return 0 if isinstance(value, int | float) and not isinstance(value, bool) else value


def values(text: str) -> list[Any]:
    """The JSON documents of an answer."""
    decoder, found, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(shape(value))
        text = text[end:].strip()
    return found


async def answered(bash: Shell, command: str, expected: str) -> None:
    """What a command prints, once it has what the page shows: ends of requests are reported a little later."""
    async with asyncio.timeout(20):
        while True:
            printed = await bash.run(command)
            print(f"$ {command}\n{printed}")
            swapped = printed.replace("sim-1", "sim-?").replace("sim-2", "sim-1").replace("sim-?", "sim-2")
            if values(expected) in (values(printed), values(swapped)):
                return
            await asyncio.sleep(0.2)


@pytest.mark.skipif(shutil.which("jq") is None, reason="the page's commands use jq")
async def test_the_page_leads_from_an_id_to_the_answer(tmp_path: Path) -> None:
    """Fields and words as shown; either replica may have won the dice."""
    commands = list(console_commands(PAGE))
    assert sum(bool(command.shown) for command in commands) >= 5
    async with running_up(2, engine={}) as edge:
        replaced = {"http://127.0.0.1:8000": edge.url, "http://127.0.0.1:8001": edge.admin_url}
        async with shell(tmp_path, replaced) as bash:
            for command in commands:
                if command.shown:
                    await answered(bash, command.text, command.shown)
                else:
                    assert await bash.run(command.text) == ""
