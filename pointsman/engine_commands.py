"""`pointsman engine ...`: from flags and a file to a running replica."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pointsman.errors import StartError
from router.errors import SettingsError
from router.logs import configure
from router.settings import decode

ADMIN_TOKEN_VARIABLE = "POINTSMAN_ADMIN__TOKEN"

T = TypeVar("T")


def read_settings(into: type[T], *, config: Path | None, assignments: Sequence[str], flags: Mapping[str, Any]) -> T:
    """Settings from file, `KEY=VALUE` assignments and flags, later ones winning. Raises StartError."""
    tree: dict[str, Any] = {}
    if config is not None:
        try:
            loaded = yaml.safe_load(config.read_text())
        except OSError as error:
            raise StartError(f"--config: {config}: cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise StartError(f"--config: {config}: not YAML: {error}") from None
        if not isinstance(loaded, dict | None):
            raise StartError(f"--config: {config}: a mapping is expected")
        tree.update(loaded or {})
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise StartError(f"--set: {assignment!r}: KEY=VALUE is expected")
        tree[key] = yaml.safe_load(value)
    tree.update({key: value for key, value in flags.items() if value not in (None, "", [])})
    try:
        return decode(tree, into, dict.fromkeys(tree, "engine settings"))
    except SettingsError as error:
        raise StartError(str(error)) from None


def run_sim(*, id: str, host: str, port: int, register: list[str], config: Path | None, assignments: list[str]) -> int:
    """One simulated replica until a signal."""
    from engine.sim.config import SimConfig
    from engine.sim.server import run

    flags = {"replica_id": id, "host": host, "port": port, "register": register, "admin_token": admin_token()}
    settings = read_settings(SimConfig, config=config, assignments=assignments, flags=flags)
    configure(component=id)
    run(settings)
    return 0


def run_vllm(*, replicas: int, model: str, register: list[str], config: Path | None, assignments: list[str]) -> int:
    """A fleet of vLLM replicas until a signal. Raises StartError when the extra is missing or vLLM cannot start."""
    from engine.vllm.config import VllmConfig
    from engine.vllm.errors import VllmError
    from engine.vllm.launch import run

    flags = {"replicas": replicas, "model": model, "admin": register, "admin_token": admin_token()}
    settings = read_settings(VllmConfig, config=config, assignments=["model=tiny", *assignments], flags=flags)
    configure(component="engine")
    try:
        run(settings)
    except VllmError as error:
        raise StartError(str(error)) from error
    return 0


def admin_token() -> str:
    """The bearer token of the admin API, from the environment: a command line is no place for one."""
    return os.environ.get(ADMIN_TOKEN_VARIABLE, "")
