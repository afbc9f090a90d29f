"""`pointsman up` itself: what it says, what it supervises, what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from edge import START_S, read_stream, running_up, start_up, until
from valkey_server import running_valkey

pytestmark = [pytest.mark.e2e, pytest.mark.system]


async def refused(*arguments: str) -> str:
    """What an `up` that must not start says on stderr: exit code 2, one line, and no folder that stays."""
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        process = await start_up(*arguments, temporary=Path(folder))
        async with asyncio.timeout(START_S):
            said, complaint = await process.communicate()
        assert not list(Path(folder).iterdir())
    progress = "logs: |warning: |starting |waiting |replicas up: |stopping "
    lines = [line for line in complaint.decode().splitlines() if not re.match(progress, line)]
    assert (process.returncode, said) == (2, b""), (process.returncode, said, complaint)
    assert len(lines) == 1, lines
    return lines[0]


async def test_each_part_is_a_process_that_says_what_it_is() -> None:
    """Command lines name haproxy, pointsman router, pointsman engine; the ready line names both addresses."""
    async with running_up(2) as edge:
        lines = [" ".join(child.cmdline()) for child in psutil.Process(edge.process.pid).children()]
        assert sum("haproxy -W" in line for line in lines) == 1
        assert sum("pointsman router --config" in line for line in lines) == 1
        assert sum("pointsman engine sim --id" in line for line in lines) == 2
        assert (edge.run_dir / "admin.sock").stat().st_mode & 0o777 == 0o600


async def test_start_and_stop_are_said() -> None:
    """Where the logs are, `ready:` once and only when it is true, and at once what a signal stops."""
    process = await start_up("--replicas", "1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert process.stdout and process.stderr
    async with asyncio.timeout(START_S):
        ready = (await process.stdout.readline()).decode()
        assert ready.startswith("ready: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        said = ""
        while "stopping: HAProxy lets running streams finish" not in said:
            line = (await process.stderr.readline()).decode()
            assert line, said
            said += line
        rest, complaint = await process.communicate()
    assert process.returncode == 0 and rest == b""
    said += complaint.decode()
    folder = Path(said.splitlines()[0].removeprefix("logs: "))
    assert folder.name == "log" and not folder.parent.exists(), "a clean run leaves no temporary folder"
    assert "ready:" not in said and "replicas up: 1 of 1" in said
    assert ("HAProxy runs as root without chroot" in said) == (os.geteuid() == 0)


async def test_what_is_degraded_is_said_beside_ready() -> None:
    """An edge whose store is not there serves, by itself, and says so."""
    arguments = ["--replicas", "0", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    process = await start_up(*arguments, "--redis", "redis://127.0.0.1:1")
    assert process.stdout
    async with asyncio.timeout(START_S):
        assert (await process.stdout.readline()).startswith(b"ready: ")
        assert (await process.stdout.readline()).startswith(b"degraded: shared state: unreachable")
        process.terminate()
        await process.communicate()


async def test_an_edge_that_joins_is_ready_when_it_serves(tmp_path: Path) -> None:
    """Replicas it learns of from others are checked by then: nobody is told that there is none."""
    async with running_valkey(tmp_path) as valkey, running_up(2, "--redis", valkey.url):
        for _ in range(2):
            async with running_up(0, "--redis", valkey.url) as joined:
                answer = await joined.chat()
                assert (answer.status_code, answer.headers["x-pointsman-reason"]) == (200, "kv-cold")
                assert await joined.states() == {"sim-1": "up", "sim-2": "up"}


async def test_a_second_up_in_the_same_folder_is_refused_and_disturbs_nothing() -> None:
    """One sentence that names folder and process; the first goes on, its parts and its admin socket too."""
    async with running_up(1) as edge:
        before = {(process.pid, process.create_time()) for process in edge.tree()}
        arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--run-dir", str(edge.run_dir)]
        sentence = await refused(*arguments)
        assert f"--run-dir: {edge.run_dir}: another `pointsman up` (pid {edge.process.pid}) runs there" in sentence
        assert {(process.pid, process.create_time()) for process in edge.tree()} == before
        assert (await edge.admin.get("/readyz")).status_code == 200
        assert "Uptime_sec" in await edge.haproxy("show info")
        assert (await edge.chat()).status_code == 200


async def test_a_state_file_that_cannot_be_read_costs_no_connection() -> None:
    """The router is killed over one: it returns, says that it is degraded, and knows its replicas again.

    Until they have registered, HAProxy keeps its servers: every request is served.
    """
    async with running_up(2) as edge:
        state = edge.run_dir / "state.json"

        async def saved() -> bool:
            return state.exists() and "sim-2" in state.read_text()

        await until(saved)
        old = edge.router()
        state.write_text("{")
        old.kill()
        statuses: Counter[int] = Counter()

        async def returned() -> bool:
            statuses[(await edge.chat()).status_code] += 1  # raises when the connection is refused
            try:
                ready = await edge.admin.get("/readyz")
                return "degraded: state file" in ready.text and await edge.states() == {"sim-1": "up", "sim-2": "up"}
            except httpx.HTTPError:
                return False

        await until(returned)
        assert set(statuses) == {200}
        assert (edge.run_dir / "state.json.bad").read_text() == "{"
        assert edge.router().pid != old.pid


async def test_a_router_whose_restart_fails_ends_nothing_else() -> None:
    """It is tried again, with what it says on the terminal, while HAProxy serves; and returns once it can."""
    async with running_up(1) as edge:
        settings = edge.run_dir / "router.yaml"
        good, old = settings.read_text(), edge.router()
        settings.write_text("polcy: 1\n")
        old.kill()

        async def is_said() -> bool:
            return "router ended with code 2" in (edge.run_dir.parent / "up.log").read_text()

        await until(is_said)
        answer = await edge.chat()
        assert (answer.status_code, answer.headers["x-pointsman-reason"]) == (200, "fail-open")
        settings.write_text(good)

        async def decides_again() -> bool:
            return (await edge.chat()).headers["x-pointsman-reason"] != "fail-open"

        await until(decides_again)
        assert edge.process.returncode is None
        assert "polcy" in (edge.run_dir.parent / "up.log").read_text()


async def test_a_run_folder_that_others_may_enter_holds_private_files() -> None:
    """State, rendered configuration, settings, logs: mode 0600 in a folder of mode 0755."""
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        run_dir = Path(folder) / "r"
        run_dir.mkdir(mode=0o755)
        arguments = ["--replicas", "1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--run-dir", str(run_dir)]
        process = await start_up(*arguments)
        assert process.stdout
        async with asyncio.timeout(START_S):
            assert (await process.stdout.readline()).startswith(b"ready: ")
            process.terminate()
            await process.communicate()
        found = {str(p.relative_to(run_dir)): p.stat().st_mode & 0o777 for p in run_dir.glob("**/*") if p.is_file()}
        assert {"state.json", "haproxy.cfg", "spoe.cfg", "router.yaml", "log/router.log", "log/haproxy.log"} <= set(
            found
        )
        assert set(found.values()) == {0o600}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_leaves_nothing_behind(number: signal.Signals) -> None:
    """The running stream finishes; then no process, no socket, no listener is left; exit code 0."""
    async with running_up(2, engine={"token_interval_ms": 10}) as edge:
        tree = edge.tree()
        stream = asyncio.create_task(read_stream(edge, tokens=100))

        async def streaming() -> bool:
            return sum(view["in_flight"] for view in (await edge.replicas()).values()) == 1

        await until(streaming)
        assert await edge.stop(number) == 0
        assert (await stream)[1] == 100
        assert not [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not list(edge.run_dir.glob("*.sock"))
        port = int(edge.url.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_killed_supervisor_takes_its_parts_along() -> None:
    """SIGKILL to `up`: the kernel tells its children, and no orphan stays."""
    async with running_up(1) as edge:
        tree = edge.tree()
        edge.process.kill()
        await edge.process.wait()

        async def all_gone() -> bool:
            return not [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

        await until(all_gone)


async def test_every_part_that_dies_is_started_again() -> None:
    """Router, HAProxy and replica, killed one after another: the edge serves again each time."""
    async with running_up(1) as edge:
        for find in (edge.router, lambda: edge.part("-W"), lambda: edge.replica("sim-1")):
            old = find()
            old.kill()

            async def replaced(find=find, old=old) -> bool:
                try:
                    return find().pid != old.pid
                except AssertionError:
                    return False

            await until(replaced)

            async def serves() -> bool:
                try:
                    answer = await edge.chat()
                    return answer.status_code == 200 and answer.headers["x-pointsman-reason"] == "kv-cold"
                except OSError:
                    return False
                except Exception as error:
                    if type(error).__module__.startswith("httpx"):
                        return False
                    raise

            await until(serves)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--engine", "gpu"], ["--engine", "'gpu'", "sim, vllm"], id="unknown engine"),
        pytest.param(["--lookup", "dns"], ["--lookup", "'dns'", "spoe, lua"], id="unknown lookup"),
        pytest.param(["--policy", "nope"], ["policy", "'nope'", "least_load"], id="unknown policy"),
        pytest.param(["--policy", '{"policy": "least_load", "by": 1}'], ["by", "1"], id="bad policy value"),
        pytest.param(["--listen", "nowhere"], ["--listen", "'nowhere'", "HOST:PORT"], id="bad address"),
        pytest.param(["--admin", "0.0.0.0:0"], ["admin.token", "bearer token"], id="open admin"),
        pytest.param(["--config", "/no/such.yaml"], ["--config", "/no/such.yaml", "cannot be read"], id="no file"),
    ],
)  # fmt: skip
async def test_a_wrong_flag_is_one_sentence_and_exit_code_2(arguments: list[str], says: list[str]) -> None:
    """Key, value and expectation; no traceback, nothing started."""
    free = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
    free += [] if "--admin" in arguments else ["--admin", "127.0.0.1:0"]
    sentence = await refused(*free, *arguments)
    for word in says:
        assert word in sentence


async def test_a_taken_port_is_named() -> None:
    """The flag to change is in the sentence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"{address} is taken" in await refused("--listen", address, "--admin", "127.0.0.1:0")
        assert "--admin" in await refused("--listen", "127.0.0.1:0", "--admin", address)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("haproxy: {threads: -1}", ["threads", "-1"], id="haproxy value"),
        pytest.param("haproxy: {treads: 1}", ["treads"], id="haproxy key"),
        pytest.param("router: {limits: {max_sessions: 0}}", ["limits.max_sessions", "0"], id="router value"),
        pytest.param("engine: {timing: warp}", ["timing", "warp"], id="engine value"),
        pytest.param("sections: 1", ["sections", "router, haproxy, engine"], id="unknown section"),
    ],
)
async def test_a_wrong_file_is_one_sentence_and_exit_code_2(tmp_path: Path, text: str, says: list[str]) -> None:
    """Each section is checked by the part it is for, a replica's by the replica."""
    path = tmp_path / "up.yaml"
    path.write_text(text)
    sentence = await refused("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config", str(path))
    for word in says:
        assert word in sentence


async def test_an_old_haproxy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.6 would seem to work and keep no connection to added servers: it is named with its version."""
    fake = tmp_path / "haproxy"
    fake.write_text("#!/bin/sh\necho 'HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("POINTSMAN_HAPROXY", str(fake))
    sentence = await refused("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert "2.6.12" in sentence and "2.8" in sentence
