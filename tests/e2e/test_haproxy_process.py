"""Starting, reloading, ending and losing the real HAProxy."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import msgspec
import psutil
import pytest
from haproxy_fixture import Edge, Received, read_response, running_edge, until
from held_ports import pick_ports

from pointsman.haproxy.config import Bind
from pointsman.haproxy.errors import ConfigError, HAProxyUnavailable, ProcessError
from pointsman.haproxy.process import POLL_S
from pointsman.haproxy.runtime_api import MasterAPI

pytestmark = pytest.mark.e2e


def processes_of(edge: Edge) -> list[psutil.Process]:
    """The master and its workers."""
    assert edge.process.pid is not None
    master = psutil.Process(edge.process.pid)
    return [master, *master.children(recursive=True)]


async def refused(edge: Edge) -> bool:
    """Whether the edge takes no new connection."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def sockets_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_socket()]


async def test_a_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    """No process, no socket; the files stay for the next start, which works."""
    async with running_edge(tmp_path) as edge:
        processes = processes_of(edge)
        assert len(processes) == 2
        await edge.process.stop()
        assert await edge.process.wait() in (0, 143)
        assert not any(process.is_running() for process in processes)
        assert sockets_in(tmp_path) == []
        await edge.process.start()
        await edge.servers_are("up", "r1", "r2")
        assert (await edge.ask()).status == 200


async def test_sockets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Admin and master sockets are as good as root on HAProxy."""
    async with running_edge(tmp_path):
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("admin.sock", "master.sock")}
        assert modes == {0o600}


async def test_a_second_start_is_refused(tmp_path: Path) -> None:
    """One object, one HAProxy."""
    async with running_edge(tmp_path) as edge:
        with pytest.raises(ProcessError, match="is running already"):
            await edge.process.start()


class HeldAnswer:
    """A replica's answer that ends when the test says so."""

    def __init__(self, edge: Edge) -> None:
        self._begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self._edge = edge
        for replica in edge.replicas.values():
            replica.on_request = self._answer

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        self._begun.set()
        await self.go_on.wait()
        writer.write(b"6\r\n world\r\n0\r\n\r\n")
        return True

    async def begin(self) -> None:
        self.asked = asyncio.create_task(self._edge.ask())
        await self._begun.wait()


async def test_a_stop_waits_for_streams_but_not_for_idle_clients(tmp_path: Path) -> None:
    """New connections are refused at once, the stream ends whole, an idle keep-alive connection holds nothing up."""
    async with running_edge(tmp_path) as edge:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", edge.port)
        idle_writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_response(idle_reader)
        held = HeldAnswer(edge)
        await held.begin()
        stopping = asyncio.create_task(edge.process.stop(drain_s=60))

        await until(lambda: refused(edge))
        assert not stopping.done()
        held.go_on.set()
        assert (await held.asked).body == b"hello world"
        async with asyncio.timeout(10):
            await stopping
        idle_writer.close()
        assert sockets_in(tmp_path) == []


async def test_a_start_is_over_when_signals_are_heard(tmp_path: Path) -> None:
    """A master that lags behind its worker drops what it is sent: a stop that follows the start would never happen."""
    async with running_edge(tmp_path) as edge:
        await edge.process.stop(drain_s=0.0)
        starting = asyncio.create_task(edge.process.start())

        async def forked() -> bool:
            pid = edge.process.pid
            return bool(pid and Path(f"/proc/{pid}/task/{pid}/children").read_text())

        await until(forked)
        assert edge.process.pid is not None
        os.kill(edge.process.pid, signal.SIGSTOP)

        async def accepted() -> bool:
            try:
                await edge.api.info()
            except HAProxyUnavailable:
                return False
            return True

        try:
            await until(accepted)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(starting), 6 * POLL_S)
        finally:
            os.kill(edge.process.pid, signal.SIGCONT)
        await starting
        held = HeldAnswer(edge)
        await held.begin()
        stopping = asyncio.create_task(edge.process.stop(drain_s=60))
        await until(lambda: refused(edge))
        held.go_on.set()
        assert (await held.asked).body == b"hello world"
        await stopping


async def test_a_stop_ends_streams_when_its_time_is_up(tmp_path: Path) -> None:
    """The bound holds even if a client never finishes."""
    async with running_edge(tmp_path) as edge:
        held = HeldAnswer(edge)
        await held.begin()
        await edge.process.stop(drain_s=0.2)
        with pytest.raises(asyncio.IncompleteReadError):
            await held.asked
        assert edge.process.pid is None


async def test_a_reload_cuts_nothing_and_takes_the_new_edge(tmp_path: Path) -> None:
    """A running stream ends whole in the old worker; requests go on; a bind that is new is there afterwards."""
    async with running_edge(tmp_path) as edge:
        held = HeldAnswer(edge)
        await held.begin()
        for replica in edge.replicas.values():
            replica.on_request = None
        (extra,) = pick_ports(1)
        edge.config = msgspec.structs.replace(edge.config, binds=(*edge.config.binds, Bind("127.0.0.1", extra)))
        statuses: list[int] = []
        stop = asyncio.Event()

        async def keep_asking() -> None:
            while not stop.is_set():
                statuses.append((await edge.ask("GET", "/v1/models", b"")).status)

        asking = asyncio.create_task(keep_asking())
        master = edge.process.pid
        await edge.process.reload()
        assert edge.process.pid == master
        assert (await edge.ask("GET", "/v1/models", b"", port=extra)).status == 200
        assert len(await MasterAPI(str(tmp_path / "master.sock")).workers()) == 2
        stop.set()
        await asking
        assert set(statuses) == {200}
        held.go_on.set()
        assert (await held.asked).body == b"hello world"
        await until(lambda: one_worker(tmp_path))


async def one_worker(folder: Path) -> bool:
    return len(await MasterAPI(str(folder / "master.sock")).workers()) == 1


async def test_a_refused_reload_changes_nothing(tmp_path: Path) -> None:
    """HAProxy's words come back, the old configuration serves on and is what a restart would find."""
    async with running_edge(tmp_path) as edge:
        before = (tmp_path / "haproxy.cfg").read_text()
        edge.config = msgspec.structs.replace(edge.config, api_keys_map="/nowhere/keys.map")
        with pytest.raises(ConfigError, match=r"failed to open pattern file </nowhere/keys\.map>"):
            await edge.process.reload()
        assert (await edge.ask()).status == 200
        assert (tmp_path / "haproxy.cfg").read_text() == before


async def test_a_crash_is_told_and_cleaned_up(tmp_path: Path) -> None:
    """A worker that dies takes the master with it; `wait` returns, no socket stays, and a start brings it back."""
    async with running_edge(tmp_path) as edge:
        master, worker = processes_of(edge)
        waiting = asyncio.create_task(edge.process.wait())
        worker.send_signal(signal.SIGSEGV)
        async with asyncio.timeout(10):
            code = await waiting
        assert code == 128 + signal.SIGSEGV
        assert not master.is_running()
        assert sockets_in(tmp_path) == []
        with pytest.raises(HAProxyUnavailable):
            await edge.process.reload()
        await edge.process.start()
        await edge.servers_are("up", "r1", "r2")
        assert (await edge.ask()).status == 200


async def test_a_kill_takes_the_workers_too(tmp_path: Path) -> None:
    """SIGKILL for all at once."""
    async with running_edge(tmp_path) as edge:
        processes = processes_of(edge)
        edge.process.kill()
        assert await edge.process.wait() == -signal.SIGKILL
        gone, alive = psutil.wait_procs(processes, timeout=5)
        assert not alive and gone
        assert sockets_in(tmp_path) == []


OWNER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
from haproxy_fixture import running_edge

async def main():
    async with running_edge(Path(sys.argv[1])) as edge:
        print(edge.process.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_haproxy_dies_with_its_owner(tmp_path: Path) -> None:
    """Even a supervisor that is killed leaves no HAProxy behind."""
    path = ":".join(entry for entry in sys.path if entry)
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), path, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    master = psutil.Process(int(await owner.stdout.readline()))
    processes = [master, *master.children(recursive=True)]
    assert len(processes) == 2
    owner.kill()
    await owner.wait()

    async def gone() -> bool:
        return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)

    await until(gone)
