"""One HAProxy in master-worker mode: its files, its life, its end.

`HAProxyProcess` owns a run folder with HAProxy's files and the two sockets, and the process that uses them. Files are
checked by HAProxy itself in a side folder before they replace those in use, so a restart after a crash always finds a
configuration that works: a start that cannot write new ones (a full disk, a state that HAProxy refuses) uses the files
that were checked last. A reload keeps listeners open and leaves running streams to the old worker. Nothing is left
behind after `stop`, after a crash, or when our own process is killed.

It does not restart a crashed HAProxy: `wait` tells, its owner decides.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pointsman.haproxy.binary import Binary, find_binary
from pointsman.haproxy.config import FILE_NAMES, FRONTEND, EdgeConfig
from pointsman.haproxy.descriptors import open_files_limit
from pointsman.haproxy.errors import ConfigError, HAProxyError, HAProxyUnavailable, ProcessError, ProtocolError
from pointsman.haproxy.private_files import append_private, write_private
from pointsman.haproxy.render import render
from pointsman.haproxy.runtime_api import MasterAPI, RuntimeAPI

CONFIG_NAME = FILE_NAMES[0]
STAGING_NAME = ".checked"
LOG_NAME = "haproxy.log"
MASTER_SOCKET_NAME = "master.sock"

CHECK_S = 20.0
START_S = 20.0
RELOAD_S = 20.0
TERM_S = 5.0
"""Between SIGTERM, which ends HAProxy at once, and SIGKILL."""
POLL_S = 0.05
LOG_TAIL_BYTES = 4096

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> Callable[[], None]:
    """Runs in the child before exec: the kernel sends it SIGTERM when `parent` dies, however it dies.

    Or when the thread that started it ends (prctl(2)), so that must be the one the event loop lives in.
    """

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return ask


class HAProxyProcess:
    """Runs HAProxy for the edge that `edge()` describes; it is asked anew at each start and reload."""

    def __init__(
        self,
        edge: Callable[[], EdgeConfig],
        run_dir: Path,
        *,
        log_file: Path | None = None,
        binary: Binary | None = None,
    ) -> None:
        self._edge = edge
        self.run_dir = run_dir.absolute()
        self.log_file = log_file or self.run_dir / LOG_NAME
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._sockets: tuple[Path, Path] | None = None
        self._installed: EdgeConfig | None = None
        """What the files in place were rendered from; None until this process has put some there."""
        self.fallback = ""
        """Why the last start used the files that were in place; empty when it wrote new ones."""

    def __repr__(self) -> str:
        return f"HAProxyProcess({str(self.run_dir)!r}, pid={self.pid})"

    @property
    def pid(self) -> int | None:
        """Of the master process; None when none is running. It stays the same over reloads."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    # --- up

    async def start(self) -> None:
        """Write the files, have HAProxy check them, start it, and return once worker and master answer.

        When the files cannot be written or are refused, and this object has put some in place before, HAProxy starts
        with those; `fallback` says why. Raises BinaryError, ConfigError with HAProxy's own words, ProcessError when it
        does not come up, OSError when the system has no room, descriptor, process or memory for it.
        """
        if self.pid is not None:
            raise ProcessError(f"HAProxy is running already (pid {self.pid})")
        edge = self._edge()
        if self._binary is None:
            self._binary = await asyncio.to_thread(find_binary)
        binary = self._binary
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fallback = ""
        try:
            await self._install(binary, edge)
        except (HAProxyError, OSError) as error:
            if self._installed is None:
                raise
            edge, self.fallback = self._installed, str(error)
        admin, master = Path(edge.admin_socket), self._master_socket(edge)
        self._sockets = (admin, master)
        argv = (binary.path, "-W", "-S", f"{master},mode,600", "-f", str(self.run_dir / CONFIG_NAME))
        with self._open_log() as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=self.run_dir,  # 3.0.0 loads the Lua file of all threads but the first from there
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches our process alone, which stops things in order
                preexec_fn=die_with_parent(os.getpid()),
            )
        try:
            await self._wait_ready(RuntimeAPI(edge.admin_socket), MasterAPI(str(master)))
        except BaseException:
            await self._end()
            raise

    async def wait(self) -> int:
        """Wait until HAProxy has ended; its exit code, negative for a signal. Sockets are removed."""
        if self._process is None:
            raise ProcessError("HAProxy was not started")
        code = await self._process.wait()
        self._remove_sockets()
        return code

    async def answers(self) -> bool:
        """Whether the worker answers on its admin socket, as one that is stopped or hangs does not."""
        if self._sockets is None:
            return False
        try:
            await RuntimeAPI(str(self._sockets[0])).info()
        except HAProxyError:
            return False
        return True

    async def reload(self) -> None:
        """Render anew and let new workers take over; streams go on in the old ones.

        Raises ConfigError when HAProxy refuses the files (nothing has changed then), ProcessError when the reload
        fails, HAProxyUnavailable when there is no HAProxy to reload, OSError when the files cannot be written.
        """
        if self._binary is None or self.pid is None:
            raise HAProxyUnavailable("HAProxy is not running")
        edge = self._edge()
        await self._install(self._binary, edge)
        result = await MasterAPI(str(self._master_socket(edge)), timeout_s=RELOAD_S).reload()
        if not result.ok:
            raise ProcessError(f"the reload failed: {result.log}")

    async def _install(self, binary: Binary, edge: EdgeConfig) -> None:
        """Put the files in place, whole or not at all."""
        staging = self.run_dir / STAGING_NAME
        staging.mkdir(mode=0o700, exist_ok=True)
        try:
            for name, text in zip(FILE_NAMES, render(edge, open_files_limit()), strict=True):
                write_private(staging / name, text.encode())
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)  # half of them are of no use, and the disk is full
            raise
        await self._check(binary, staging / CONFIG_NAME)
        for name in FILE_NAMES:
            (staging / name).replace(self.run_dir / name)
        staging.rmdir()
        self._installed = edge

    def _open_log(self) -> BinaryIO:
        """The log file; nowhere when it cannot be opened, since HAProxy without a log is better than none."""
        try:
            return append_private(self.log_file)
        except OSError:
            return Path(os.devnull).open("ab")

    async def _check(self, binary: Binary, config: Path) -> None:
        checker = await asyncio.create_subprocess_exec(
            binary.path,
            *("-c", "-f", str(config)),
            cwd=config.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(CHECK_S):
                said, _ = await checker.communicate()
        except TimeoutError:
            checker.kill()
            await checker.wait()
            raise ProcessError(f"haproxy -c did not end within {CHECK_S:g} s") from None
        if checker.returncode != 0:
            words = said.decode("utf-8", "replace").strip()
            raise ConfigError("haproxy.cfg", str(config), f"a configuration HAProxy accepts; it says:\n{words}")

    def _master_socket(self, edge: EdgeConfig) -> Path:
        return Path(edge.master_socket) if edge.master_socket else self.run_dir / MASTER_SOCKET_NAME

    async def _wait_ready(self, admin: RuntimeAPI, master: MasterAPI) -> None:
        """Return once the worker answers, and the master too: signals that come before it does are lost on it."""
        assert self._process is not None
        deadline_s = time.monotonic() + START_S
        while True:
            if self._process.returncode is not None:
                raise ProcessError(f"HAProxy ended with code {self._process.returncode}: {self._last_words()}")
            try:
                await admin.info()
                await master.workers()
                return
            except HAProxyUnavailable:
                if time.monotonic() > deadline_s:
                    raise ProcessError(f"HAProxy did not answer within {START_S:g} s: {self._last_words()}") from None
            await asyncio.sleep(POLL_S)

    def _last_words(self) -> str:
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                return log.read().decode("utf-8", "replace").strip()
        except OSError:
            return "its log cannot be read"

    # --- down

    async def stop(self, drain_s: float = 30.0) -> None:
        """Stop listening, let streams finish for up to `drain_s`, then end. Idle client connections do not hold it up.

        Does nothing when HAProxy is not running.
        """
        if self.pid is not None:
            assert self._process is not None
            self._process.send_signal(signal.SIGUSR1)
            await self._drain(time.monotonic() + drain_s)
        await self._end()

    def kill(self) -> None:
        """SIGKILL at once, workers included; nothing drains."""
        if self.pid is not None:
            os.killpg(self.pid, signal.SIGKILL)
        self._remove_sockets()

    async def _drain(self, deadline_s: float) -> None:
        """Return when no worker has a stream any more, HAProxy is gone, or the time is up."""
        assert self._sockets is not None
        master = MasterAPI(str(self._sockets[1]))
        while self.pid is not None and time.monotonic() < deadline_s:
            try:
                if not await master.busy_workers(FRONTEND):
                    return
            except (HAProxyUnavailable, ProtocolError):
                # It is ending, which may break off an answer; `pid` tells when it has.
                pass
            await asyncio.sleep(POLL_S)

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(TERM_S):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        for path in self._sockets or ():
            with suppress(OSError):  # one that stays is replaced by the next start
                path.unlink()
