"""Files that only their owner may read, from their first byte on: they hold tokens, keys, and paths of sockets.

A mode that is set after the file was written leaves a moment in which anybody reads it, and a folder that exists
already may let them. Leaf module.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

MODE = 0o600


def write_private(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Writes a file of mode 0600 in place of whatever has its name; `sync` waits until the disk has it.

    Raises OSError when the folder does not take it; what was written of it is removed, so that it takes no room.
    """
    path.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE), "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def append_private(path: Path) -> BinaryIO:
    """Opens a file for appending; one that is not there yet gets mode 0600. Raises OSError."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, MODE))
