"""A real HAProxy for tests: our own rendering of an edge on ports the OS picked, between stubs of its neighbours.

`running_edge(...)` starts a stub router (SPOP, HTTP lookup and log ring), any number of stub replicas and HAProxy, and
waits until HAProxy has attached to all of them. If the test inside fails, configuration and log become notes of its
exception. The stubs record what reaches them and do what the test sets on them; they decide nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from held_ports import pick_ports

from pointsman.haproxy.binary import find_binary
from pointsman.haproxy.config import BACKEND, Bind, EdgeConfig, Server, Timeouts
from pointsman.haproxy.process import HAProxyProcess
from pointsman.haproxy.reconcile import DesiredServer, Reconciler, observe
from pointsman.haproxy.runtime_api import RuntimeAPI, ServerState, parse_servers_state
from pointsman.haproxy.spop import Notify, ProtocolError, Scope, SPOPConnection, State, encode_set_vars
from pointsman.router.requests.end_of_request import OTHER_LINES

Answer = dict[str, str | int]
Arguments = dict[str, Any]

BINARY_VARIABLE = "TEST_HAPROXY"
"""Environment variable with the path of another haproxy to test; by default the one that is installed with us."""

REACH_S = 30.0
"""How long a test waits for something that must happen; nothing is asserted about time."""


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return once `condition` holds. TimeoutError after `REACH_S`."""
    async with asyncio.timeout(REACH_S):
        while not await condition():
            await asyncio.sleep(0.01)


class HeldRequest:
    """A request that HAProxy holds: it goes on with what `answer` becomes."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.left = asyncio.Event()
        """HAProxy waits for the answer no longer."""


class StubRouter:
    """Answers every lookup with `answer(arguments)`; None answers nothing at all, as a hung router does."""

    def __init__(self) -> None:
        self.spop_port, self.ring_port, self.lookup_port = pick_ports(3)
        self.answer: Callable[[Arguments], Answer | None] = lambda _: {}
        self.asked: list[Arguments] = []
        self.held: asyncio.Queue[HeldRequest] = asyncio.Queue()
        self.messages: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.notes: list[bytes] = []
        """What HAProxy logs besides lines."""
        self.ring_connected = asyncio.Event()
        self._line_came = asyncio.Condition()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; again after `stop`, on the same ports."""
        for handler, port in (
            (self._serve_spop, self.spop_port),
            (self._serve_ring, self.ring_port),
            (self._serve_lookup, self.lookup_port),
        ):
            self._servers.append(await asyncio.start_server(self._tracked(handler), "127.0.0.1", port))

    async def stop(self) -> None:
        """As if the process died: every socket is closed."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for writer in list(self._writers):
            writer.transport.abort()

    async def line(self, request_id: str, ev: str = "end") -> dict[str, Any]:
        """The line of one request, waited for."""
        async with asyncio.timeout(REACH_S), self._line_came:
            while True:
                for line in self.lines:
                    if line["id"] == request_id and line["ev"] == ev:
                        return line
                await self._line_came.wait()

    def _tracked(
        self, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            try:
                await handler(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the peer left
            finally:
                self._writers.discard(writer)
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

        return serve

    def _decide(self, message: str, arguments: Arguments) -> Answer | None:
        self.messages.append(message)
        self.asked.append(arguments)
        return self.answer(arguments)

    async def _serve_spop(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        spop = SPOPConnection()
        while spop.state is not State.CLOSED:
            data = await reader.read(65536)
            try:
                spop.receive_data(data) if data else spop.receive_eof()
            except ProtocolError as error:
                raise AssertionError(f"HAProxy sent what the codec refuses: {error}") from error
            for event in spop.events_received():
                if isinstance(event, Notify):
                    (message,) = event.messages
                    answer = self._decide(message.name, dict(message.args))
                    if answer is not None:
                        spop.send_ack(event.stream_id, event.frame_id, encode_set_vars(Scope.TXN, answer))
            writer.write(spop.data_to_send())
            await writer.drain()

    async def _serve_lookup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        form = (await reader.readexactly(length)).decode("ascii")
        arguments: Arguments = dict(parse_qsl(form, keep_blank_values=True, encoding="latin-1"))
        if "body" in arguments:
            arguments["body"] = arguments["body"].encode("latin-1")
        for number in {"size", "seen"} & arguments.keys():
            arguments[number] = int(arguments[number])
        answer = await self._hold(arguments, reader) if b" /hold " in head else self._decide("lookup", arguments)
        if answer is None:
            await reader.read()  # until HAProxy gives up
            return
        text = "".join(f"{name}={value}\n" for name, value in answer.items())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text) + text.encode())
        await writer.drain()

    async def _hold(self, arguments: Arguments, reader: asyncio.StreamReader) -> Answer | None:
        held = HeldRequest(arguments)
        self.held.put_nowait(held)
        leaving = asyncio.create_task(reader.read())
        await asyncio.wait((held.answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if held.answer.done():
            return held.answer.result()
        held.left.set()
        return None

    async def _serve_ring(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ring_connected.set()
        while True:
            length = int(await reader.readuntil(b" "))
            raw = await reader.readexactly(length)
            if raw.startswith(OTHER_LINES):
                self.notes.append(raw)
                continue
            line = json.loads(raw)
            async with self._line_came:
                self.lines.append(line)
                self._line_came.notify_all()


@dataclass
class Received:
    """One request as a replica got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class StubReplica:
    """An HTTP/1.1 server that records requests and answers `{"replica": name}`, or as `on_request` says."""

    name: str
    port: int
    healthy: bool = True
    answers_health: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, health checks wait: the process is there, but hangs."""
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    on_request: Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]] | None = None
    """Writes an answer of its own and returns True, or returns False to have the connection closed at once."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.answers_health.set()

    @property
    def server(self) -> Server:
        return Server(self.name, "127.0.0.1", self.port)

    @property
    def desired(self) -> DesiredServer:
        return DesiredServer(self.name, "127.0.0.1", self.port)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """As if the process died."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        counted = False
        try:
            while True:
                request = await self._read(reader)
                if request.target == "/health":
                    await self.answers_health.wait()
                    writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % (200 if self.healthy else 503))
                    await writer.drain()
                    continue
                self.connections += not counted
                counted = True
                self.received.append(request)
                if self.on_request is not None:
                    if not await self.on_request(request, reader, writer):
                        return
                    continue
                body = json.dumps({"replica": self.name}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the peer left
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> Received:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = [(key, value.strip(" ")) for key, _, value in (line.partition(":") for line in lines[1:] if line)]
        request = Received(method, target, headers, b"")
        if length := request.header("content-length"):
            request.body = await reader.readexactly(int(length))
        elif request.header("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                request.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        return request


@dataclass
class Response:
    """One answer as the client got it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def replica(self) -> str:
        return self.headers.get("x-pointsman-replica", "")

    @property
    def reason(self) -> str:
        return self.headers.get("x-pointsman-reason", "")

    @property
    def id(self) -> str:
        """The edge's own id of the request."""
        return self.headers.get("x-pointsman-request-id") or self.headers["x-request-id"]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Edge:
    """A running edge and its neighbours."""

    config: EdgeConfig
    """Read at each start and reload."""
    process: HAProxyProcess
    router: StubRouter
    replicas: dict[str, StubReplica]

    def __post_init__(self) -> None:
        self.api = RuntimeAPI(self.config.admin_socket)
        self.reconciler = Reconciler(self.api, options=self.config.server_options)

    @property
    def port(self) -> int:
        return self.config.binds[0].port

    async def ask(
        self,
        method: str = "POST",
        target: str = "/v1/chat/completions",
        body: bytes = b"{}",
        headers: Iterable[tuple[str, str]] = (),
        *,
        port: int | None = None,
    ) -> Response:
        """One request on a connection of its own, sent exactly as given."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        try:
            lines = [f"{method} {target} HTTP/1.1", "Host: edge", *(f"{key}: {value}" for key, value in headers)]
            if not any(key.lower() in ("content-length", "transfer-encoding") for key, _ in headers):
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            async with asyncio.timeout(REACH_S):
                return await read_response(reader)
        finally:
            writer.close()

    async def servers_are(self, health: str, *names: str) -> None:
        """Wait until HAProxy has found these replicas `up` or `down`."""

        async def reached() -> bool:
            stats = {stat.name: stat for stat in await self.api.stat(BACKEND)}
            seen = observe(await servers_state(self.api), stats)
            return all(seen[name].health == health for name in names)

        await until(reached)

    async def idle(self) -> None:
        """Wait until HAProxy counts no request on any server."""

        async def reached() -> bool:
            return not any(server.sessions for server in await self.api.stat(BACKEND))

        await until(reached)

    async def router_is(self, status: str) -> None:
        """Wait until HAProxy has found the router `UP` or `DOWN`."""

        async def reached() -> bool:
            return (await self.api.stat("pm-router"))[0].status.startswith(status)

        await until(reached)


async def servers_state(api: RuntimeAPI) -> list[ServerState]:
    """Every server of the backend, as HAProxy has it."""
    return parse_servers_state((await api.run([f"show servers state {BACKEND}"]))[0])


async def read_response(reader: asyncio.StreamReader) -> Response:
    """One HTTP/1.1 answer; trailers are not expected."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return Response(int(head[0].split(" ")[1]), headers, body)


@asynccontextmanager
async def running_edge(folder: Path, *, replicas: int = 2, **changes: object) -> AsyncIterator[Edge]:
    """An edge with `replicas` stub replicas r1, r2, ... in its file; `changes` are fields of `EdgeConfig`."""
    async with AsyncExitStack() as stack:
        router = StubRouter()
        await router.start()
        stack.push_async_callback(router.stop)
        fleet = {f"r{n}": StubReplica(f"r{n}", port) for n, port in enumerate(pick_ports(replicas), start=1)}
        for replica in fleet.values():
            await replica.start()
            stack.push_async_callback(replica.stop)
        front, ops = pick_ports(2)
        values: dict[str, Any] = {
            "binds": (Bind("127.0.0.1", front),),
            "ops": Bind("127.0.0.1", ops),
            "spop_address": f"127.0.0.1:{router.spop_port}",
            "lookup_address": f"127.0.0.1:{router.lookup_port}",
            "ring_address": f"127.0.0.1:{router.ring_port}",
            "admin_socket": str(folder / "admin.sock"),
            "master_socket": str(folder / "master.sock"),
            "servers": tuple(replica.server for replica in fleet.values()),
            "threads": 2,
            "body_needs": 0,
            # So that a busy machine does not make the edge fail open: router and client share a loop.
            "timeouts": Timeouts(processing_ms=5000, router_check_ms=1000),
        }
        config = EdgeConfig(**(values | changes))
        process = HAProxyProcess(lambda: edge.config, folder, binary=find_binary(os.environ.get(BINARY_VARIABLE, "")))
        edge = Edge(config, process, router, fleet)
        stack.push_async_callback(process.stop, drain_s=0.0)
        try:
            await process.start()
            await edge.servers_are("up", *(server.name for server in config.servers))
            await edge.router_is("UP")
            async with asyncio.timeout(REACH_S):
                await router.ring_connected.wait()
            yield edge
        except BaseException as error:
            for path in (folder / "haproxy.cfg", process.log_file):
                if path.exists():
                    error.add_note(f"--- {path}\n{path.read_text()}")
            raise
