"""`pointsman engine ...`: from flags and a file to a running replica."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pointsman.contract.config import decode, parse_value
from pointsman.contract.errors import ConfigurationError
from pointsman.documents import read_mapping
from pointsman.errors import StartError
from pointsman.router.process.logs import configure

ADMIN_TOKEN_VARIABLE = "POINTSMAN_ADMIN__TOKEN"

ENGINE_SETTINGS = "engine settings"
"""Name of the file, the assignments and the flags together in errors."""

T = TypeVar("T")


def read_settings(
    into: type[T],
    *,
    config: Path | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
) -> T:
    """Settings decoded from `read_tree`. Raises ConfigurationError or StartError."""
    tree = read_tree(config=config, assignments=assignments, flags=flags)
    return decode(tree, into, source=ENGINE_SETTINGS, strict=False)


def read_tree(*, config: Path | None, assignments: Sequence[str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from file, `KEY=VALUE` assignments and flags, later ones winning.

    A flag that is None or empty was not given. Raises ConfigurationError or StartError.
    """
    tree: dict[str, Any] = {}
    if config is not None:
        tree.update(read_mapping(config))
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError("--set", assignment, "KEY=VALUE")
        tree[key] = parse_value(value, f"--set {key}")
    tree.update({key: value for key, value in flags.items() if value not in (None, "", [])})
    return tree


def run_sim(
    *,
    id: str | None,
    host: str | None,
    port: int | None,
    register: list[str],
    config: Path | None,
    assignments: list[str],
) -> int:
    """One simulated replica until a signal."""
    from pointsman.engine.sim.config import SimConfig
    from pointsman.engine.sim.server import run

    flags = {"replica_id": id, "host": host, "port": port, "register": register, "admin_token": admin_token()}
    settings = read_settings(SimConfig, config=config, assignments=assignments, flags=flags)
    configure(component=settings.replica_id)
    run(settings)
    return 0


def run_vllm(
    *, replicas: int | None, model: str | None, register: list[str], config: Path | None, assignments: list[str]
) -> int:
    """A fleet of vLLM replicas until a signal. Raises StartError when the extra is missing or vLLM cannot start."""
    from pointsman.engine.vllm.errors import VllmError
    from pointsman.engine.vllm.fleet.config import decode_fleet
    from pointsman.engine.vllm.fleet.launch import run

    flags = {"replicas": replicas, "model": model, "admin": register, "admin_token": admin_token()}
    tree = read_tree(config=config, assignments=assignments, flags=flags)
    if "pools" not in tree:
        tree.setdefault("model", "tiny")
    configure(component="engine")
    try:
        run(decode_fleet(tree, source=ENGINE_SETTINGS))
    except VllmError as error:
        raise StartError(str(error)) from error
    return 0


def admin_token() -> str:
    """The bearer token of the admin API, from the environment: a command line is no place for one."""
    return os.environ.get(ADMIN_TOKEN_VARIABLE, "")
