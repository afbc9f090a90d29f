"""HAProxy's Runtime API (management.txt 9.3) and the master's CLI (9.4): commands out, typed answers in.

The parsers are plain functions on text. `RuntimeAPI` is the socket: one connection per call, since a connection kept
open stays with an old process after a reload. A call sends any number of commands, `AHEAD` at a time before it reads
their answers. HAProxy marks answers with a syslog severity, so a refusal is told from an answer without knowing the
command.

Raised: `HAProxyUnavailable` (no connection, closed early, too slow), `CommandRefused` (HAProxy's words), `WorkerGone`
(the master has no such worker), `ProtocolError` (an answer of unknown form, or too long).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

from pointsman.haproxy.errors import CommandRefused, HAProxyUnavailable, ProtocolError, WorkerGone
from pointsman.haproxy.last_check import NO_CHECK, CheckColumns, CheckRow

MAX_ANSWER_BYTES = 16 << 20
"""One answer; `show stat` takes about 300 bytes a server."""

AHEAD = 8
"""Commands sent before their answers are read: a look at HAProxy wakes either side a few times, not once a command.
HAProxy 3.2.0 aborts when hundreds are sent ahead."""

_PROMPT = b"\n> "
_SEVERITY = re.compile(r"\[([0-7])\]: ")
_ERROR = 3
"""syslog severity `err`; 0 to 3 are failures, 4 and above remarks and information."""

SETUP = ("prompt", "set severity-output number")
"""First command of a connection: answers then end with a prompt, and show whether the command was refused."""


class Info(NamedTuple):
    """`show info`, the part that is used."""

    pid: int
    version: str
    uptime_s: int
    connections: int
    """Of clients, idle ones included; those of the Runtime API itself do not count."""
    stopping: bool
    """Whether the process only finishes what it has, after a reload or because HAProxy was told to stop."""


class ServerState(NamedTuple):
    """One line of `show servers state` (format version 1)."""

    backend: str
    id: int
    name: str
    host: str
    port: int
    op_state: int
    """0 stopped, 1 starting (slow start), 2 running, 3 stopping."""
    admin_state: int
    """Bits: 0x01 forced maint, 0x02 inherited maint, 0x04 maint by config, 0x08 forced drain, 0x10 inherited drain,
    0x20 unresolved, 0x40 FQDN set at run time."""
    weight: int
    check_status: int
    """Of the last check that ended: 0 unknown and 1 initialising mean that none did."""
    check_state: int
    """Bits: 0x01 check running, 0x02 configured, 0x04 enabled, 0x08 paused, 0x10 agent check."""


class ServerStat(NamedTuple):
    """One server line of `show stat`: what is on it at this moment."""

    backend: str
    name: str
    status: str
    """HAProxy's word: `UP`, `DOWN`, `DRAIN`, `MAINT`, `no check`, `UP 1/2` ..."""
    sessions: int
    """Requests being served."""
    queued: int
    """Requests waiting in HAProxy for this server."""
    check: CheckRow = NO_CHECK
    """The server's last health check, unread."""


class ReloadResult(NamedTuple):
    """Answer of the master to `reload`."""

    ok: bool
    log: str


def check_answer(command: str, answer: str) -> str:
    """The answer without its severity. Raises CommandRefused when it says no."""
    marked = _SEVERITY.match(answer)
    text = answer[marked.end() :] if marked else answer
    if (marked and int(marked[1]) <= _ERROR) or text.startswith(("Unknown command", "Permission denied")):
        raise CommandRefused(command, text.partition("\n")[0])
    return text


def parse_info(text: str) -> Info:
    """Read `show info`."""
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    try:
        return Info(
            pid=int(values["Pid"]),
            version=values["Version"],
            uptime_s=int(values["Uptime_sec"]),
            connections=int(values["CurrConns"]),
            stopping=values["Stopping"] != "0",
        )
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"show info: {error!r}") from error


def parse_servers_state(text: str) -> list[ServerState]:
    """Read `show servers state`; columns are found by name, so later versions may add some."""
    version, _, table = text.partition("\n")
    if version != "1":
        raise ProtocolError(f"show servers state: format version {version[:20]!r}, 1 is known")
    lines = table.splitlines()
    if not lines or not lines[0].startswith("# "):
        raise ProtocolError("show servers state: no column names")
    column = {name: i for i, name in enumerate(lines[0][2:].split())}
    try:
        return [
            ServerState(
                backend=row[column["be_name"]],
                id=int(row[column["srv_id"]]),
                name=row[column["srv_name"]],
                host=row[column["srv_addr"]],
                port=int(row[column["srv_port"]]),
                op_state=int(row[column["srv_op_state"]]),
                admin_state=int(row[column["srv_admin_state"]]),
                weight=int(row[column["srv_uweight"]]),
                check_status=int(row[column["srv_check_status"]]),
                check_state=int(row[column["srv_check_state"]]),
            )
            for row in (line.split(" ") for line in lines[1:] if not line.startswith("#"))
        ]
    except (KeyError, IndexError, ValueError) as error:
        raise ProtocolError(f"show servers state: {error!r}") from error


def parse_stat(text: str) -> list[ServerStat]:
    """Read `show stat` (CSV) and keep its servers: type 2 (management.txt 9.1)."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        raise ProtocolError("show stat: no column names")
    names = lines[0][2:].split(",")
    column = {name: i for i, name in enumerate(names)}
    # Plain commas: the columns that HAProxy quotes (last_chk and later) stand behind those read here; none is split.
    wanted = 1 + max(column.get(name, 0) for name in ("pxname", "svname", "status", "scur", "qcur", "type"))
    checks = CheckColumns.among(names[wanted:])
    try:
        return [
            ServerStat(
                backend=row[column["pxname"]],
                name=row[column["svname"]],
                status=row[column["status"]],
                sessions=int(row[column["scur"]]),
                queued=int(row[column["qcur"]] or 0),
                check=CheckRow(checks, row[wanted]),
            )
            for row in (line.split(",", wanted) for line in lines[1:])
            if row[column["type"]] == "2"
        ]
    except (KeyError, IndexError, ValueError) as error:
        raise ProtocolError(f"show stat: {error!r}") from error


def parse_map(text: str) -> dict[str, str]:
    """Read `show map`: one `<pointer> <key> <value>` a line; the value may hold spaces."""
    entries = {}
    for line in text.splitlines():
        fields = line.split(" ", 2)
        if len(fields) != 3:
            raise ProtocolError(f"show map: {line[:100]!r}")
        entries[fields[1]] = fields[2]
    return entries


def parse_variable(text: str) -> str:
    """The value out of `get var`: `proc.pm.body: type=sint value=<3>`. Empty when the variable is not set."""
    found = re.search(r" value=<(.*)>$", text.strip(), re.DOTALL)
    return found[1] if found else ""


def parse_reload(text: str) -> ReloadResult:
    """Read the master's answer to `reload`: `Success=1`, a line of dashes, then its log."""
    first, _, log = text.partition("\n")
    if not first.startswith("Success="):
        raise ProtocolError(f"reload: {first[:100]!r}")
    return ReloadResult(first == "Success=1", log.removeprefix("--\n").strip())


def parse_workers(text: str) -> list[int]:
    """Pids out of `show proc`: the workers, old ones included."""
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return [int(row[0]) for row in rows if len(row) > 1 and row[1] == "worker"]


def has_streams(text: str, frontend: str) -> bool:
    """Whether `show sess` lists a stream that came in through `frontend`. Idle connections have none."""
    return f" fe={frontend} " in text


class RuntimeAPI:
    """Client of one stats socket.

    `address` is `host:port`, `unix@/path` or `/path`. `timeout_s` bounds connecting and each answer.
    """

    def __init__(self, address: str, *, timeout_s: float = 2.0) -> None:
        self.address = address
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"RuntimeAPI({self.address!r})"

    async def answers(self, commands: Sequence[str]) -> list[str]:
        """Send all, in order, on one connection; the raw answers. A refused command does not stop the rest."""
        async with _connection(self.address, self._timeout_s) as (reader, writer):
            answers: list[str] = []
            everything = (*SETUP, *commands)
            for at in range(0, len(everything), AHEAD):
                ahead = everything[at : at + AHEAD]
                writer.write("".join(f"{command}\n" for command in ahead).encode())
                for _ in ahead:
                    async with asyncio.timeout(self._timeout_s):
                        answers.append(await _answer(reader))
            return answers[len(SETUP) :]

    async def run(self, commands: Sequence[str]) -> list[str]:
        """Send all, in order, on one connection. Raises CommandRefused for the first refused, after sending all."""
        answers = await self.answers(commands)
        return [check_answer(command, answer) for command, answer in zip(commands, answers, strict=True)]

    async def info(self) -> Info:
        """Version, pid and age of the process behind the socket."""
        return parse_info((await self.run(["show info"]))[0])

    async def stat(self, backend: str) -> list[ServerStat]:
        """Every server of one backend, with what it is serving."""
        return parse_stat((await self.run([f"show stat {backend} 4 -1"]))[0])

    async def set_variable(self, name: str, value: int) -> None:
        """Set a process variable (`proc.…`) that the configuration mentions; it is gone after a reload."""
        # management.txt: `set var` works only on a connection in experimental mode.
        await self.run(["experimental-mode on", f"set var {name} int({value})"])

    async def get_variable(self, name: str) -> str:
        """A process variable as text; empty when it is not set. Raises CommandRefused when HAProxy does not know it."""
        return parse_variable((await self.run([f"get var {name}"]))[0])


class MasterAPI:
    """Client of a master socket (management.txt 9.4). It takes one command a connection and marks no severities."""

    def __init__(self, address: str, *, timeout_s: float = 2.0) -> None:
        self.address = address
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"MasterAPI({self.address!r})"

    async def command(self, command: str) -> str:
        """The answer to one command; `@!<pid> ...` is passed on to that worker."""
        async with _connection(self.address, self._timeout_s) as (reader, writer), asyncio.timeout(self._timeout_s):
            writer.write(f"{command}\n".encode())
            writer.write_eof()
            return (await _read_to_end(reader)).decode("utf-8", "replace")

    async def reload(self) -> ReloadResult:
        """Read the configuration files again, start new workers, retire the old ones. Returns when that is done."""
        return parse_reload(await self.command("reload"))

    async def workers(self) -> list[int]:
        """Pids of the current worker and of those that still finish their streams."""
        return parse_workers(self._whole(await self.command("show proc")))

    async def worker_info(self, pid: int) -> Info:
        """Version, age and connections of one worker. Raises WorkerGone when it has ended."""
        return parse_info(await self._ask_worker(pid, "show info"))

    async def worker_stat(self, pid: int, backend: str) -> list[ServerStat]:
        """Every server of one backend, with what one worker is serving on it. Raises WorkerGone when it has ended."""
        return parse_stat(await self._ask_worker(pid, f"show stat {backend} 4 -1"))

    async def busy_workers(self, frontend: str) -> list[int]:
        """Return those of `workers` that have a stream of a client of `frontend`."""
        busy = []
        for pid in await self.workers():
            with suppress(WorkerGone):
                if has_streams(await self._ask_worker(pid, "show sess"), frontend):
                    busy.append(pid)
        return busy

    async def _ask_worker(self, pid: int, command: str) -> str:
        answer = await self.command(f"@!{pid} {command}")
        if answer.startswith("Can't find the target"):
            raise WorkerGone(f"{self.address}: no worker has pid {pid}")
        return self._whole(answer).strip("\n")

    def _whole(self, answer: str) -> str:
        """An answer that ends with an empty line, as all do but that to `reload`.

        A master that is reloaded breaks off what it is saying. No answer, or a part of one, says nothing of workers.
        """
        if not answer.endswith("\n\n"):
            raise HAProxyUnavailable(f"{self.address}: closed {'in the middle of' if answer else 'without'} an answer")
        return answer


@asynccontextmanager
async def _connection(
    address: str, timeout_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for as long as the context is open."""
    with socket_errors(address, timeout_s):
        async with asyncio.timeout(timeout_s):
            reader, writer = await connect(address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@contextmanager
def socket_errors(address: str, timeout_s: float) -> Iterator[None]:
    """Turns what can go wrong on a connection to HAProxy into HAProxyUnavailable or ProtocolError."""
    try:
        yield
    except TimeoutError:
        raise HAProxyUnavailable(f"{address}: no answer within {timeout_s:g} s") from None
    except asyncio.IncompleteReadError:
        raise HAProxyUnavailable(f"{address}: closed without an answer") from None
    except asyncio.LimitOverrunError:
        raise ProtocolError(f"{address}: an answer of more than {MAX_ANSWER_BYTES} bytes") from None
    except OSError as error:
        raise HAProxyUnavailable(f"{address}: {error.strerror or error}") from error


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a socket of HAProxy. Raises OSError."""
    path = address.removeprefix("unix@")
    if path.startswith("/"):
        return await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
    host, _, port = path.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=MAX_ANSWER_BYTES)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str) -> str:
    """The raw answer to one command on a connection that has sent `SETUP`."""
    writer.write(f"{command}\n".encode())
    return await _answer(reader)


async def _answer(reader: asyncio.StreamReader) -> str:
    """The answer to the next command that was sent."""
    answer = await reader.readuntil(_PROMPT)
    return answer.decode("utf-8", "replace").removesuffix("\n> ").strip("\n")


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    chunks: list[bytes] = []
    held = 0
    while chunk := await reader.read(65536):
        chunks.append(chunk)
        held += len(chunk)
        if held > MAX_ANSWER_BYTES:
            raise ProtocolError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return b"".join(chunks)
