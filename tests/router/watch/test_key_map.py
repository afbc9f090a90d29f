"""HAProxy's map of keys and its file, kept up with the table of keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.haproxy.errors import HAProxyUnavailable
from pointsman.router.documents.book import Book
from pointsman.router.process.readiness import Readiness
from pointsman.router.tenancy.keys import KeyTable
from pointsman.router.tenancy.records import ApiKey
from pointsman.router.tenancy.tenants import TenantTable
from pointsman.router.watch import key_map
from pointsman.router.watch.key_map import KeySync


class HAProxyMap:
    """A Runtime API that knows one map and one variable."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.told = False
        self.away = False
        self.commands: list[str] = []

    async def run(self, commands: list[str]) -> list[str]:
        return await self.answers(commands)

    async def answers(self, commands: list[str]) -> list[str]:
        if self.away:
            raise HAProxyUnavailable("no HAProxy here")
        answers = []
        for command in commands:
            self.commands.append(command)
            verb, _, name, *rest = command.split("\n")[0].split(" ")
            assert name == "keys.map"
            if verb == "show":
                answers.append("\n".join(f"0x0 {key} {value}" for key, value in self.entries.items()))
                continue
            if verb == "add":
                self.entries.update(line.split(" ") for line in command.split("\n")[1:] if line)
            elif verb == "set":
                self.entries[rest[0]] = rest[1]
            else:
                del self.entries[rest[0]]
            answers.append("")
        return answers

    async def set_variable(self, name: str, value: int) -> None:
        self.told = True


class Desk:
    """A table of keys, a HAProxy, and the loop between them."""

    def __init__(self, file: Path | None = None) -> None:
        self.now_s = 1000.0
        self.book = Book()
        self.haproxy = HAProxyMap()
        self.readiness = Readiness()
        self.table = KeyTable(self.book, TenantTable(self.book), wall=lambda: self.now_s)
        self.sync = KeySync(
            self.table,
            self.haproxy,  # type: ignore[arg-type]
            file=str(file or ""),
            readiness=self.readiness,
            wall=lambda: self.now_s,
        )

    def put(self, number: int, **given: Any) -> str:
        key = ApiKey(id=f"{number:012d}", tenant="t", hash=f"{number:064x}", created_s=0.0, **given)
        self.book.write(f"key/{key.id}", msgspec.to_builtins(key))
        return key.hash


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.create_task(desk.sync.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_new_worker_is_told_all_and_then_what_changes() -> None:
    """By single commands, and that it knows them all."""
    desk = Desk()
    first = desk.put(1)
    async with running(desk):
        desk.sync.worker_began("keys.map")
        assert await desk.sync.settled()
        assert (desk.haproxy.entries, desk.haproxy.told) == ({first: "t/000000000001"}, True)
        desk.haproxy.commands.clear()
        second = desk.put(2)
        assert await desk.sync.settled()
        assert set(desk.haproxy.entries) == {first, second}
        assert len(desk.haproxy.commands) == 1
        desk.put(1, revoked_s=1.0)
        assert await desk.sync.settled()
        assert set(desk.haproxy.entries) == {second}


async def test_a_worker_that_needs_no_keys_is_told_none() -> None:
    """And nobody waits for it."""
    desk = Desk()
    async with running(desk):
        desk.sync.worker_began("")
        desk.put(1)
        assert await desk.sync.settled()
    assert (desk.haproxy.commands, desk.sync.required) == ([], False)


async def test_what_haproxy_did_not_hear_is_told_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was reloaded meanwhile may have anything: the whole map is compared."""
    monkeypatch.setattr(key_map, "RETRY_S", 0.01)
    desk = Desk()
    first = desk.put(1)
    async with running(desk):
        desk.sync.worker_began("keys.map")
        assert await desk.sync.settled()
        desk.haproxy.away = True
        desk.put(1, revoked_s=1.0)
        second = desk.put(2)
        while not desk.sync.errors:
            await asyncio.sleep(0.005)
        assert any("no HAProxy here" in line for line in desk.readiness.impaired())
        desk.haproxy.entries = {first: "t/000000000001", "0" * 64: "stranger/x"}
        desk.haproxy.away = False
        assert await desk.sync.settled()
        assert desk.haproxy.entries == {second: "t/000000000002"}
        assert desk.readiness.impaired() == []


async def test_a_key_that_expires_leaves_haproxy_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody writes anything at that time."""
    monkeypatch.setattr(key_map, "LONGEST_WAIT_S", 0.01)
    desk = Desk()
    desk.put(1, expires_s=1001.0)
    async with running(desk):
        desk.sync.worker_began("keys.map")
        assert await desk.sync.settled()
        assert desk.haproxy.entries
        desk.now_s = 1001.0
        async with asyncio.timeout(5):
            while desk.haproxy.entries:
                await asyncio.sleep(0.005)


async def test_the_file_has_the_keys_in_force(tmp_path: Path) -> None:
    """Without any HAProxy too: the next one reads it."""
    file = tmp_path / "keys.map"
    desk = Desk(file)
    first = desk.put(1)
    desk.put(2, revoked_s=1.0)
    async with running(desk):
        assert await desk.sync.settled()
        assert file.read_text() == f"{first} t/000000000001\n"


async def test_a_file_that_cannot_be_written_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy is told all the same."""
    monkeypatch.setattr(key_map, "RETRY_S", 0.01)
    desk = Desk(tmp_path / "missing" / "keys.map")
    first = desk.put(1)
    async with running(desk):
        desk.sync.worker_began("keys.map")
        while not desk.sync.errors:
            await asyncio.sleep(0.005)
        assert set(desk.haproxy.entries) == {first}
        assert any("edge.keys_file" in line for line in desk.readiness.impaired())
        (tmp_path / "missing").mkdir()
        assert await desk.sync.settled()
        assert desk.readiness.impaired() == []
