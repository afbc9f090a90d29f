"""The Runtime API: answers captured from HAProxy 2.8.25, refusals, and a socket that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from golden import HAPROXY

from pointsman.haproxy.errors import CommandRefused, HAProxyUnavailable, ProtocolError, WorkerGone
from pointsman.haproxy.runtime_api import (
    AHEAD,
    MAX_ANSWER_BYTES,
    Info,
    MasterAPI,
    ReloadResult,
    RuntimeAPI,
    ServerState,
    check_answer,
    has_streams,
    parse_info,
    parse_map,
    parse_reload,
    parse_servers_state,
    parse_stat,
    parse_variable,
    parse_workers,
)

CAPTURED = (HAPROXY / "haproxy-2.8.25-runtime-api.txt").read_text()
"""prompt, set severity-output number, show info, show servers state fleet, show stat fleet 4 -1, a refused and an
accepted `set server`, quit; r2 was down."""

INFO, STATE, STAT = (answer.strip("\n") for answer in CAPTURED.split("\n> ")[2:5])


def test_info() -> None:
    """Pid, version, age, connections of clients, and whether it is stopping."""
    assert parse_info(INFO) == Info(32741, "2.8.25-5cf5d0683", uptime_s=1, connections=0, stopping=False)


def test_servers_state() -> None:
    """One up, one down, found by column name."""
    up, down = parse_servers_state(STATE)[:2]
    assert up == ServerState(
        backend="fleet",
        id=219023793,
        name="r1",
        host="127.0.0.2",
        port=5,
        op_state=2,
        admin_state=0,
        weight=16,
        check_status=15,
        check_state=6,
    )
    assert (down.name, down.op_state, down.check_status) == ("r2", 0, 8)


def test_servers_state_survives_further_columns() -> None:
    """Another HAProxy may add columns in between."""
    text = "1\n# " + " ".join(["new", *STATE.splitlines()[1][2:].split()]) + "\n"
    text += "\n".join(f"x {line}" for line in STATE.splitlines()[2:])
    assert parse_servers_state(text) == parse_servers_state(STATE)


def test_stat() -> None:
    """Servers only; frontends and sums have another type."""
    assert [stat[:5] for stat in parse_stat(STAT)[:2]] == [("fleet", "r1", "UP", 0, 0), ("fleet", "r2", "DOWN", 0, 0)]
    lines = STAT.splitlines()
    backend = lines[1].split(",")
    backend[32] = "1"
    assert parse_stat("\n".join((lines[0], ",".join(backend)))) == []


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        pytest.param(parse_info, "", id="info: nothing"),
        pytest.param(parse_info, "Pid: x\nVersion: 2\nUptime_sec: 1", id="info: no number"),
        pytest.param(parse_servers_state, "", id="state: nothing"),
        pytest.param(parse_servers_state, "2\n# be_id\n", id="state: another format version"),
        pytest.param(parse_servers_state, "1\nbe_id\n", id="state: no header"),
        pytest.param(parse_servers_state, "1\n# be_id\n3\n", id="state: columns missing"),
        pytest.param(parse_servers_state, STATE[:-20], id="state: cut"),
        pytest.param(parse_stat, "", id="stat: nothing"),
        pytest.param(parse_stat, "# pxname,svname\nfleet,r1\n", id="stat: columns missing"),
        pytest.param(parse_stat, STAT.splitlines()[0] + "\nfleet,r1,0", id="stat: cut"),
        pytest.param(parse_reload, "", id="reload: nothing"),
    ],
)
def test_unreadable_answers_are_protocol_errors(parse: Callable[[str], object], text: str) -> None:
    """What has not the documented form is never half read."""
    with pytest.raises(ProtocolError):
        parse(text)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param("[3]: No such server.", "No such server.", id="an error"),
        pytest.param("[0]: oh", "oh", id="worse than an error"),
        pytest.param(
            "[6]: Unknown command: 'foo', but ...\n  add acl", "Unknown command: 'foo', but ...", id="unknown"
        ),
        pytest.param("[6]: Permission denied\n", "Permission denied", id="a socket of a lower level"),
    ],
)
def test_a_refusal_carries_haproxys_words(answer: str, words: str) -> None:
    """By severity, and by the two refusals that have the severity of a remark."""
    with pytest.raises(CommandRefused) as refused:
        check_answer("do it", answer)
    assert (refused.value.command, refused.value.answer) == ("do it", words)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param("", "", id="silence is consent"),
        pytest.param("[6]: New server registered.", "New server registered.", id="information"),
        pytest.param("[4]: IP changed from 'a' to 'b'", "IP changed from 'a' to 'b'", id="a remark"),
        pytest.param("Name: HAProxy\nPid: 1", "Name: HAProxy\nPid: 1", id="data"),
    ],
)
def test_other_answers_pass(answer: str, text: str) -> None:
    """Without their severity."""
    assert check_answer("do it", answer) == text


def test_variables() -> None:
    """Text of the value, whatever its type."""
    assert parse_variable("proc.pm.body: type=sint value=<3>") == "3"
    assert parse_variable("proc.pm.x: type=str value=<a>b>") == "a>b"
    assert parse_variable("proc.pm.x: undefined") == ""


def test_reload_results() -> None:
    """Success or not, with the master's log."""
    assert parse_reload("Success=1\n--\n[NOTICE] Loading success.\n\n") == ReloadResult(
        True, "[NOTICE] Loading success."
    )
    assert parse_reload("Success=0\n--\n[ALERT] no\n") == ReloadResult(False, "[ALERT] no")


def test_workers_of_a_master() -> None:
    """The current one and those that are leaving."""
    text = (
        "#<PID>          <type>          <reloads>       <uptime>        <version>      \n"
        "38              master          2 [failed: 0]   0d00h00m01s     2.8.25\n"
        "# workers\n41   worker          0               0d00h00m01s     2.8.25\n"
        "# old workers\n39   worker      1               0d00h00m09s     2.8.25\n"
        "# programs\n\n"
    )
    assert parse_workers(text) == [41, 39]


def test_streams_are_those_of_the_named_frontend() -> None:
    """The CLI's own stream, SPOE's and idle connections do not count."""
    own = "0x1: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none>\n0x2: proto=? ts=00"
    assert not has_streams(own, "edge")
    assert has_streams(own + "\n0x3: proto=tcpv4 src=1.2.3.4:5 fe=edge be=fleet srv=r2", "edge")


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def stub_socket(path: Path, handler: Handler) -> AsyncIterator[str]:
    """A socket that behaves as `handler` does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except OSError:
            pass  # the client left
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield str(path)
    finally:
        server.close()


async def captured(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers as the captured HAProxy did, one command after the other."""
    for answer in CAPTURED.split("\n> ")[:-1]:
        await reader.readline()
        writer.write(f"{answer}\n> ".encode())


async def test_answers_are_told_apart(tmp_path: Path) -> None:
    """Each command's answer by itself, without prompts and blank lines; a refusal does not stop the rest."""
    async with stub_socket(tmp_path / "s", captured) as path:
        answers = await RuntimeAPI(f"unix@{path}").answers(["1", "2", "3", "4", "5"])
    assert answers == [INFO, STATE, STAT, "[3]: No such server.", ""]


async def test_a_tcp_address_serves_too() -> None:
    """host:port, as in a pod of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await captured(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        api = RuntimeAPI(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await api.info()).version == "2.8.25-5cf5d0683"


async def test_few_commands_are_sent_ahead(tmp_path: Path) -> None:
    """The first `AHEAD` leave together, the next ones after the answers to those before."""
    got: list[list[bytes]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            got.append(data.splitlines())
            for command in got[-1]:
                writer.write(b"[6]: yes\n\n> " if command.isdigit() else b"\n> ")

    commands = [str(number) for number in range(AHEAD + 3)]
    async with stub_socket(tmp_path / "s", answer) as path:
        assert await RuntimeAPI(path).run(commands) == ["yes"] * len(commands)
    assert [len(together) for together in got] == [AHEAD, 5]
    assert [command.decode() for together in got for command in together][2:] == commands


async def test_run_raises_for_the_first_refusal_after_sending_all(tmp_path: Path) -> None:
    """HAProxy's words, and the command they are about."""
    async with stub_socket(tmp_path / "s", captured) as path:
        with pytest.raises(CommandRefused, match=r"'4' refused: No such server\."):
            await RuntimeAPI(path).run(["1", "2", "3", "4", "5"])


async def test_nobody_there(tmp_path: Path) -> None:
    """No socket is an HAProxy that is away."""
    with pytest.raises(HAProxyUnavailable, match="No such file"):
        await RuntimeAPI(str(tmp_path / "s")).info()


async def test_no_answer_in_time(tmp_path: Path) -> None:
    """A hung HAProxy costs the timeout, not more."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()

    async with stub_socket(tmp_path / "s", hang) as path:
        with pytest.raises(HAProxyUnavailable, match=r"no answer within 0\.05 s"):
            await RuntimeAPI(path, timeout_s=0.05).info()


async def test_closed_without_an_answer(tmp_path: Path) -> None:
    """It was just ending."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    async with stub_socket(tmp_path / "s", leave) as path:
        with pytest.raises(HAProxyUnavailable, match="closed without an answer"):
            await RuntimeAPI(path).info()


def test_a_map_is_read_line_by_line() -> None:
    """Values may hold spaces; what has no key is no entry."""
    assert parse_map("0x26 a /v1/models\n0x27 b c d") == {"a": "/v1/models", "b": "c d"}
    assert parse_map("") == {}
    with pytest.raises(ProtocolError):
        parse_map("nonsense")


async def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    """Memory is bounded whatever answers."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunk = b"x" * 65536
        for _ in range(MAX_ANSWER_BYTES // len(chunk) + 2):
            writer.write(chunk)
            await writer.drain()

    async with stub_socket(tmp_path / "s", flood) as path:
        with pytest.raises(ProtocolError, match="more than"):
            await RuntimeAPI(path, timeout_s=30).info()


async def test_the_master_takes_one_command_and_the_end_of_input(tmp_path: Path) -> None:
    """Its CLI closes only when we have closed our side."""
    got: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())
        writer.write(b"Success=1\n--\nfine\n")

    async with stub_socket(tmp_path / "s", answer) as path:
        assert await MasterAPI(path).reload() == ReloadResult(True, "fine")
    assert got == [b"reload\n"]


Asking = Callable[[MasterAPI], Awaitable[object]]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda master: master.workers(), id="workers"),
        pytest.param(lambda master: master.worker_info(7), id="worker_info"),
        pytest.param(lambda master: master.worker_stat(7, "fleet"), id="worker_stat"),
        pytest.param(lambda master: master.busy_workers("edge"), id="busy_workers"),
    ],
)
@pytest.mark.parametrize(("said", "words"), [("", "without an answer"), ("# pxname,svname\n", "in the middle of an")])
async def test_a_master_that_breaks_off_has_said_nothing_of_its_workers(
    tmp_path: Path, ask: Asking, said: str, words: str
) -> None:
    """It does so while it is reloaded, and the workers live on."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(said.encode())

    async with stub_socket(tmp_path / "s", break_off) as path:
        with pytest.raises(HAProxyUnavailable, match=words):
            await ask(MasterAPI(path))


async def test_a_worker_that_the_master_does_not_know_is_gone(tmp_path: Path) -> None:
    """It says so in words of its own, without the empty line that ends an answer."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(b"Can't find the target PID matching the prefix '@!7'\n")

    async with stub_socket(tmp_path / "s", refuse) as path:
        with pytest.raises(WorkerGone):
            await MasterAPI(path).worker_info(7)
