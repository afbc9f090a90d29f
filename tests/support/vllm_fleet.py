"""A fleet of real vLLM replicas in a process of its own, and an admin API that only writes down what it is told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest

from pointsman.contract.events import EventsAnswer

NEEDED = ("ray", "vllm", "tokenizers")
"""Packages of `make engine-cpu` that real vLLM takes to run here."""


def real_vllm(*more: str, timeout_s: float) -> list[pytest.MarkDecorator]:
    """Marks of a file of tests that run real vLLM, one file at a time, where those packages and `more` of them are."""
    missing = [package for package in (*NEEDED, *more) if find_spec(package) is None]
    return [
        pytest.mark.vllm,
        pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)} (make engine-cpu)"),
        pytest.mark.timeout(timeout_s),
        pytest.mark.xdist_group("vllm"),
    ]


READY_S = 240
"""A replica needs 30 s alone on two quiet cores; two beside other work take several times that."""

_DRIVER = """
import json, sys
from pointsman.engine.vllm.fleet.config import decode_fleet
from pointsman.engine.vllm.errors import VllmError
from pointsman.engine.vllm.fleet.launch import run
try:
    run(decode_fleet(json.loads(sys.argv[1])))
except VllmError as error:
    sys.exit(f"error: {error}")
"""


class Call(NamedTuple):
    """One request to the admin API."""

    method: str
    path: str
    body: dict[str, Any]

    def said(self, method: str, path: str) -> bool:
        """Whether it is this call, whichever life of a replica says it."""
        return self.method == method and self.path.partition("?")[0] == path


class Lines:
    """Things that arrive from another thread, and waiting for one of them."""

    def __init__(self) -> None:
        self._seen: list[Any] = []
        self._more = threading.Condition()

    def add(self, item: Any) -> None:
        with self._more:
            self._seen.append(item)
            self._more.notify_all()

    def all(self) -> list[Any]:
        with self._more:
            return list(self._seen)

    def wait(self, wanted: Callable[[Any], bool], timeout_s: float, *, since: int = 0) -> Any:
        """The first one wanted from number `since` on; AssertionError with all of them when there is none in time."""

        def found() -> Any:
            return next((item for item in self._seen[since:] if wanted(item)), None)

        with self._more:
            assert self._more.wait_for(lambda: found() is not None, timeout_s), (
                f"not seen in {timeout_s} s: {self._seen}"
            )
            return found()


@contextlib.contextmanager
def admin_server() -> Iterator[tuple[str, Lines]]:
    """URL of an admin API that answers 200 to all, and the calls it got."""
    calls = Lines()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            said = b"{}"
            if self.path.endswith("/events"):
                calls.add(Call(self.command, self.path, msgspec.msgpack.decode(body)))
                said = msgspec.json.encode(EventsAnswer(resync=False, interval_ms=20))
            else:
                calls.add(Call(self.command, self.path, json.loads(body) if body else {}))
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_PUT = do_POST = do_DELETE = answer  # noqa: N815 (http.server finds its methods by these names)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FleetProcess:
    """`pointsman.engine.vllm.fleet.launch.run` in a child process."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.lines = Lines()
        """What it says, line by line."""
        self._errors = errors
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_ready(self, replica: str, timeout_s: float = READY_S, *, since: int = 0) -> str:
        """URL of a replica once it is ready."""
        line = self.lines.wait(
            lambda line: line.startswith("ready: ") and f"replica={replica} " in line, timeout_s, since=since
        )
        return str(line.split()[1])

    def family(self) -> list[psutil.Process]:
        """The driver and all it started."""
        driver = psutil.Process(self.process.pid)
        return [driver, *driver.children(recursive=True)]

    def wait(self, timeout_s: float) -> int:
        """Exit status."""
        status = self.process.wait(timeout_s)
        self._reader.join()
        return status

    @property
    def errors(self) -> str:
        """All of standard error so far."""
        return self._errors.read_text()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.add(line.rstrip("\n"))


@contextlib.contextmanager
def running_fleet(folder: Path, environment: dict[str, str], **settings: Any) -> Iterator[FleetProcess]:
    """A fleet with these settings; ended with the block, by force if it must be."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
        )
    fleet = FleetProcess(process, folder / "stderr")
    try:
        yield fleet
    finally:
        if process.poll() is None:
            family = fleet.family()
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
        fleet.wait(10)


def listener_of(url: str) -> psutil.Process:
    """The process that listens on a URL's port."""
    port = int(url.rpartition(":")[2])
    found = [c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    assert len(found) == 1, f"{url}: {found}"
    return psutil.Process(found[0])
