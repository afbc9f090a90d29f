"""The file of `pointsman up --config`: a section for each kind of process, all checked before anything starts.

What is wrong is named by the file, the section and the key: `up.yaml: router.polcy: unknown key (did you mean ...)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pointsman.contract.config import decode, join
from pointsman.contract.errors import ConfigurationError
from pointsman.documents import read_mapping
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.vllm.fleet.config import AT as FLEET
from pointsman.engine.vllm.fleet.config import FleetConfig, decode_fleet
from pointsman.haproxy.config import EdgeConfig
from pointsman.router.settings import read_settings

NEAR = ("spop", "ring", "lookup")
"""The router's listeners that only HAProxy connects to."""

CHOSEN_ADDRESSES = ("spop_address", "ring_address", "lookup_address", "models_address")
"""Addresses of those, as HAProxy's section would name them, and `up` chooses them."""


class UpFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file of `--config`: a section for each kind of process, in that process's own terms."""

    router: dict[str, Any] = {}
    haproxy: dict[str, Any] = {}
    engine: dict[str, Any] = {}


def read_file(path: Path | None) -> UpFile:
    """The sections of a file, all empty without one. Raises ConfigurationError."""
    if path is None:
        return UpFile()
    return decode(read_mapping(path), UpFile, source=f"--config: {path}")


def source_of(path: Path | None, section: str) -> str:
    """Name of a section among the sources of settings."""
    return f"{path}, section {section}"


def router_section(document: UpFile) -> dict[str, Any]:
    """The router's settings in the file, less what `up` chooses: sockets to HAProxy, and the options of its servers."""
    section = {key: value for key, value in document.router.items() if key not in NEAR}
    if isinstance(section.get("edge"), dict):
        section["edge"] = section["edge"] | {"server_options": None}
    return section


@contextmanager
def named_by_section(path: Path | None) -> Iterator[None]:
    """Errors of a section become errors of the file, with the section in front of the key."""
    try:
        yield
    except ConfigurationError as error:
        for section in UpFile.__struct_fields__:
            if error.source == source_of(path, section):
                key = join(section, error.key)
                raise type(error)(key, error.value, error.expected, error.problem, str(path)) from error
        raise


def check_sections(path: Path | None, document: UpFile, *, admin: dict[str, Any], engine: str) -> None:
    """Check all sections without touching anything of this machine. Raises ConfigurationError for the first mistake.

    admin: host and port of the admin API, which flags name.
    engine: `sim` or `vllm`, whose settings the section `engine` has.
    """
    with named_by_section(path):
        read_settings(overrides={source_of(path, "router"): router_section(document), "pointsman up": {"admin": admin}})
        placeholders = dict.fromkeys(CHOSEN_ADDRESSES, "127.0.0.1:1")
        sockets = {"admin_socket": "/run/admin.sock", "master_socket": "/run/master.sock"}
        binds = document.haproxy.get("binds") or [{"host": "127.0.0.1", "port": 1}]
        edge = {**document.haproxy, **placeholders, **sockets, "binds": binds}
        decode(edge, EdgeConfig, source=source_of(path, "haproxy"))
        if engine == "sim":
            decode(document.engine, SimConfig, source=source_of(path, "engine"), strict=False)
        elif document.engine:
            alone = {} if "pools" in document.engine else {"model": "tiny"}
            decode_engine(path, alone | document.engine)


def decode_engine(path: Path | None, tree: dict[str, Any]) -> FleetConfig:
    """The fleet in the section `engine`. Raises ConfigurationError with keys as that section has them."""
    try:
        return decode_fleet(tree, source=source_of(path, "engine"))
    except ConfigurationError as error:
        key = error.key.removeprefix(FLEET).removeprefix(".")
        raise type(error)(key, error.value, error.expected, error.problem, error.source) from error
