"""The KV connector of a replica that has a role: vLLM's arguments and environment for NIXL."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import msgspec

from pointsman.contract.registration import Role

CONNECTOR_FLAG = "--kv-transfer-config"
DEFAULT_CONNECTOR = "NixlConnector"

_KV_ROLES = {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}


def connector_args(role: Role, args: Sequence[str]) -> tuple[str, ...]:
    """Arguments of `vllm serve` that give a replica of this role its KV connector, unless `args` name one.

    KV that cannot be fetched is computed again: vLLM's default is to fail the request.
    """
    kv_role = _KV_ROLES.get(role)
    if kv_role is None or any(word.split("=", 1)[0].replace("_", "-") == CONNECTOR_FLAG for word in args):
        return ()
    config = {"kv_connector": DEFAULT_CONNECTOR, "kv_role": kv_role, "kv_load_failure_policy": "recompute"}
    return (f"{CONNECTOR_FLAG}={msgspec.json.encode(config).decode()}",)


def open_side_channel(host: str, rank: int) -> None:
    """Tell NIXL where to offer its handshake: on this replica's address, on a port that is free.

    Read by vLLM from the environment when the engine starts, here or in a child; a rank adds its number to the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as free:
        port = free.getsockname()[1]
    os.environ.setdefault("VLLM_NIXL_SIDE_CHANNEL_HOST", host)
    os.environ.setdefault("VLLM_NIXL_SIDE_CHANNEL_PORT", str(port - rank))
