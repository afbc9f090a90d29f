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
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pointsman.contract.child_process import ChildProcess
from pointsman.contract.private_files import write_private
from pointsman.haproxy.binary import Binary, find_binary
from pointsman.haproxy.config import FILE_NAMES, FRONTEND, EdgeConfig
from pointsman.haproxy.descriptors import open_files_limit
from pointsman.haproxy.errors import ConfigError, HAProxyError, HAProxyUnavailable, ProcessError, ProtocolError
from pointsman.haproxy.key_map import begin_map
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
        self._process = ChildProcess(log_file or self.run_dir / LOG_NAME, whole_group=True)
        self._binary = binary
        self._sockets: tuple[Path, Path] | None = None
        self._installed: EdgeConfig | None = None
        """Configuration that the files in place were rendered from; None until this process has written some."""
        self.fallback = ""
        """Why the last start used the files that were in place; empty when it wrote new ones."""

    def __repr__(self) -> str:
        return f"HAProxyProcess({str(self.run_dir)!r}, pid={self.pid})"

    @property
    def log_file(self) -> Path:
        return self._process.log_file

    @property
    def pid(self) -> int | None:
        """Of the master process; None when none is running. It stays the same over reloads."""
        return self._process.pid

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
        # 3.0.0 loads the Lua file of all threads but the first from the working folder.
        await self._process.spawn(argv, cwd=self.run_dir)
        try:
            await self._wait_ready(RuntimeAPI(edge.admin_socket), MasterAPI(str(master)))
        except BaseException:
            await self._end()
            raise

    async def wait(self) -> int:
        """Wait until HAProxy has ended; its exit code, negative for a signal. Sockets are removed."""
        if self.pid is None and self._process.exit_code is None:
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
            if edge.keys_map:
                begin_map(Path(edge.keys_map))
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
        deadline_s = time.monotonic() + START_S
        while True:
            if (code := self._process.exit_code) is not None:
                raise ProcessError(f"HAProxy ended with code {code}: {self._last_words()}")
            try:
                await admin.info()
                await master.workers()
                return
            except HAProxyUnavailable:
                if time.monotonic() > deadline_s:
                    raise ProcessError(f"HAProxy did not answer within {START_S:g} s: {self._last_words()}") from None
            await asyncio.sleep(POLL_S)

    def _last_words(self) -> str:
        return self._process.last_words() or "it said nothing"

    # --- down

    async def stop(self, drain_s: float = 30.0) -> None:
        """Stop listening, let streams finish for up to `drain_s`, then end. Idle client connections do not hold it up.

        Does nothing when HAProxy is not running.
        """
        if self.pid is not None:
            self._process.send_signal(signal.SIGUSR1)
            await self._drain(time.monotonic() + drain_s)
        await self._end()

    def kill(self) -> None:
        """SIGKILL at once, workers included; nothing drains."""
        self._process.kill()
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
        await self._process.stop(TERM_S)
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        for path in self._sockets or ():
            with suppress(OSError):  # one that stays is replaced by the next start
                path.unlink()
