"""Construction of a router's part in a fleet of edges, where its settings name a store."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from pointsman.policies.errors import PolicyError
from pointsman.router.core import Core
from pointsman.router.edges.documents import SharedDocument
from pointsman.router.edges.protocol import EdgeProtocol
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.sharing import Sharing
from pointsman.router.process.clock import Clock
from pointsman.router.process.readiness import Readiness
from pointsman.router.settings import SharedSettings

log = structlog.get_logger(__name__)


def join(core: Core, edge: str, *, documents: Mapping[str, SharedDocument]) -> EdgeProtocol:
    """Return the protocol that shares a core's state under the id `edge`, connected to the core's hooks."""
    protocol = EdgeProtocol(edge, core, documents)
    core.on_slot_added.append(protocol.peers.slot_added)
    core.on_slot_removed.append(protocol.loads.clear_slot)
    core.on_registry_changed.append(protocol.registry_changed)
    core.on_policy_changed.append(protocol.document_changed)
    core.on_session_forgotten.append(protocol.session_forgotten)
    return protocol


def build_sharing(settings: SharedSettings, core: Core, *, readiness: Readiness, clock: Clock) -> Sharing | None:
    """Build a router's part in a fleet of edges; None for an edge that is alone. Opens nothing."""
    if not settings.url:
        return None
    # The client takes an eighth of a router's start, in time and in memory: an edge alone goes without.
    from pointsman.router.edges.redis_store import RedisStore

    def take_policy(document: dict[str, Any], about: Mapping[str, str]) -> None:
        """Put live a policy of another edge. Raises ValueError when this one cannot use it."""
        try:
            core.policy.put(document, asked=False, author=about.get("author", ""), why=about.get("why", ""))
        except PolicyError as error:
            log.error("the policy live on other edges is not usable here", error=str(error))
            raise ValueError(str(error)) from error

    policy = SharedDocument(
        lambda: core.policy.put_live,
        take_policy,
        lambda: {"author": core.policy.revision.author, "why": core.policy.revision.why},
    )
    protocol = join(core, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", documents={"policy": policy})
    sharing = Sharing(
        protocol,
        RedisStore(settings.url, settings.name, tls_ca=settings.tls_ca),
        info=EdgeInfo(edge=protocol.edge, name=settings.edge, admin_url=settings.admin_url.rstrip("/")),
        readiness=readiness,
        clock=clock,
        flush_s=settings.flush_ms / 1000,
        stream_bytes=settings.stream_mb * 1024 * 1024,
    )
    core.edge, core.other_edges = protocol.edge, sharing.other_edges
    return sharing


def introduce(info: EdgeInfo, admin: str, now_s: float, *, scheme: str = "http") -> EdgeInfo:
    """Complete an edge's info once its admin front listens at `admin`; `now_s` since 1970. `scheme`: http or https."""
    here = socket.gethostname()
    host, _, port = admin.rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        host = here  # listening everywhere is no address to ask at
    url = f"{scheme}://{host}:{port}"
    return msgspec.structs.replace(
        info, name=info.name or f"{here}:{port}", admin_url=info.admin_url or url, since_s=now_s
    )
