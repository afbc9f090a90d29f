"""The folder of one edge of `pointsman up`: sockets, rendered files, state and logs; and the ports it picked.

`RunFolder` owns it. It is locked before anything is written into it, so a second `up` there is refused without touching
the first; the kernel lets go of the lock when its holder dies, however it dies. A folder that was made for a start that
is refused is removed again; a temporary one is removed after a clean run, and kept when something failed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from pointsman.errors import StartError
from pointsman.up.ports import PortHolder

FLAG = "--run-dir"
LOCK_NAME = "up.lock"
LOGS_NAME = "log"

MAX_SOCKET_PATH = 90
"""Unix socket paths end at 107 bytes; HAProxy binds under a temporary name some bytes longer."""

ORPHANS_S = 5.0
"""Seconds that the parts of an earlier run have to end; those of a killed `up` end within one second."""

POLL_S = 0.05


class RunFolder:
    """One folder, held until `release` or `refuse`."""

    def __init__(self, path: Path, lock: int, *, made: bool, temporary: bool = False) -> None:
        """`lock` is the descriptor that holds the lock; `made`: the folder was not there before."""
        self.path = path
        self._lock = lock
        self._made = made
        self._temporary = temporary
        self.ports = PortHolder()
        """Ports that the edge picked, reserved as long as the folder."""

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def take(cls, asked: Path | None) -> RunFolder:
        """Makes the folder where there is none, and locks it; a temporary one when none is `asked` for.

        Raises StartError, which names the folder and, when another `up` runs there, its process.
        """
        if asked is None:
            return cls._locked(Path(tempfile.mkdtemp(prefix="pointsman-")), made=True, temporary=True)
        path = asked.absolute()
        if len(str(path)) > MAX_SOCKET_PATH - len("/master.sock"):
            raise StartError(f"{FLAG}: {path}: the path is too long for the sockets inside it; choose a shorter one")
        made = not path.exists()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{FLAG}: {path}: cannot be made: {error.strerror}") from None
        return cls._locked(path, made=made)

    @classmethod
    def _locked(cls, path: Path, *, made: bool, temporary: bool = False) -> RunFolder:
        with ExitStack() as undo:
            if made:
                undo.callback(shutil.rmtree, path, ignore_errors=True)
            try:
                lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, lock)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "not known"
                    raise StartError(
                        f"{FLAG}: {path}: another `pointsman up` (pid {holder}) runs there: stop it, or choose another "
                        f"folder with {FLAG}"
                    ) from None
                _wait_for_orphans(path)
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                (path / LOGS_NAME).mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise StartError(f"{FLAG}: {path}: cannot be written to: {error.strerror}") from None
            undo.pop_all()
        return cls(path, lock, made=made, temporary=temporary)

    @property
    def logs(self) -> Path:
        """Where the logs of all parts are."""
        return self.path / LOGS_NAME

    def refuse(self) -> None:
        """Nothing was started: a folder that was made for it goes."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)
        self._let_go()

    def release(self, *, failed: bool) -> bool:
        """Ends a run; True when a temporary folder was kept, because something `failed` and its logs say what."""
        if self._temporary and not failed:
            shutil.rmtree(self.path, ignore_errors=True)
        self._let_go()
        return self._temporary and failed

    def _let_go(self) -> None:
        self.ports.close()
        os.close(self._lock)


def _wait_for_orphans(path: Path) -> None:
    """Returns once nobody listens on a socket in the folder. Raises StartError when somebody goes on."""
    deadline_s = time.monotonic() + ORPHANS_S
    for place in sorted(path.glob("*.sock")):
        while _is_listened_on(place):
            if time.monotonic() > deadline_s:
                raise StartError(f"{FLAG}: {path}: a process of an earlier run still listens on {place.name}: end it")
            time.sleep(POLL_S)


def _is_listened_on(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(POLL_S)
        try:
            probe.connect(str(place))
        except OSError:
            return False
    return True
