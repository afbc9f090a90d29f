"""`pointsman haproxy ...`: HAProxy's files without a running edge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from pointsman.contract.config import decode
from pointsman.contract.private_files import write_private
from pointsman.contract.registration import Role
from pointsman.documents import read_mapping
from pointsman.errors import StartError
from pointsman.haproxy.config import FILE_NAMES, EdgeConfig, Server
from pointsman.haproxy.descriptors import open_files_limit
from pointsman.haproxy.errors import ConfigError
from pointsman.haproxy.key_map import begin_map
from pointsman.haproxy.render import render
from pointsman.router.errors import StateFileError
from pointsman.router.fleet.saved import StateFile

DEFAULTS: dict[str, Any] = {
    "binds": [{"host": "0.0.0.0", "port": 8000}],
    "spop_address": "127.0.0.1:9101",
    "lookup_address": "127.0.0.1:9102",
    "models_address": "127.0.0.1:9102",
    "ring_address": "127.0.0.1:9103",
    "admin_socket": "/run/pointsman/admin.sock",
    "master_socket": "/run/pointsman/master.sock",
    "ops": {"host": "127.0.0.1", "port": 8405},
}
"""The addresses a router listens on by default, and the paths the packaged units use."""


def saved_servers(state: Path) -> tuple[Server, ...]:
    """The replicas a router saved, as servers: HAProxy then serves from its first request. Raises StateFileError.

    Prefill replicas are left to the router, which adds them as drained: no request is theirs.
    """
    saved = StateFile(state).load().replicas
    return tuple(
        Server(replica.id, replica.host, replica.port, replica.health_path)
        for replica in saved
        if replica.role is not Role.PREFILL
    )


def render_to(config: Path | None, out: Path, state: Path | None = None) -> list[Path]:
    """Writes haproxy.cfg and the files it refers to into `out`; their paths.

    A state file that cannot be read is left out, which is said on stderr: an edge without servers gets them from the
    router within half a second. Raises StartError or ConfigError.
    """
    tree = dict(DEFAULTS)
    if config is not None:
        tree.update(read_mapping(config))
    edge = decode(tree, EdgeConfig, source=f"--config: {config}" if config else "", error=ConfigError)
    if state is not None:
        try:
            edge = msgspec.structs.replace(edge, servers=saved_servers(state))
        except StateFileError as error:
            print(f"pointsman: rendered without the replicas that were saved: {error}", file=sys.stderr)
    rendered = render(edge, open_files_limit())
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = []
        if edge.keys_map:
            begin_map(Path(edge.keys_map))
        for name, text in zip(FILE_NAMES, rendered, strict=True):
            write_private(out / name, text.encode())
            written.append(out / name)
    except OSError as error:
        raise StartError(f"--out: {out}: cannot be written: {error.strerror}") from None
    return written
