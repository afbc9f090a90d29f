"""`pointsman haproxy ...`: HAProxy's files without a running edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from haproxy.config import EdgeConfig, render
from haproxy.errors import ConfigError
from pointsman.errors import StartError

DEFAULTS: dict[str, Any] = {
    "binds": [{"host": "0.0.0.0", "port": 8000}],
    "spop_address": "127.0.0.1:9101",
    "lookup_address": "127.0.0.1:9102",
    "ring_address": "127.0.0.1:9103",
    "admin_socket": "/run/pointsman/admin.sock",
    "master_socket": "/run/pointsman/master.sock",
    "ops": {"host": "127.0.0.1", "port": 8405},
}
"""The addresses a router listens on by default, and the paths the packaged units use."""


def render_to(config: Path | None, out: Path) -> list[Path]:
    """Writes haproxy.cfg, spoe.cfg and pointsman.lua into `out`; their paths. Raises StartError or ConfigError."""
    tree = dict(DEFAULTS)
    if config is not None:
        try:
            loaded = yaml.safe_load(config.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise StartError(f"--config: {config}: cannot be read as YAML: {error}") from None
        if not isinstance(loaded, dict):
            raise StartError(f"--config: {config}: a mapping is expected")
        tree.update(loaded)
    try:
        rendered = render(msgspec.convert(tree, EdgeConfig))
    except ConfigError:
        raise
    except msgspec.ValidationError as error:
        raise StartError(f"--config: {config or 'defaults'}: {error}") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for name, text in zip(("haproxy.cfg", "spoe.cfg", "pointsman.lua"), rendered, strict=True):
            (out / name).write_text(text)
            written.append(out / name)
    except OSError as error:
        raise StartError(f"--out: {out}: cannot be written: {error.strerror}") from None
    return written
