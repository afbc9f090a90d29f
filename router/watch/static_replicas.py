"""Replicas that no registration brings: those of the settings, and those of the state file that may still be there."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import structlog

from pointsman.contract.registration import Registration
from pointsman.router.errors import RegistrationError, ResolveError, SettingsError
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.settings import StaticReplica
from pointsman.router.watch.endpoints import START_RESOLVE_S, EndpointResolver

log = structlog.get_logger(__name__)


def forget_unlisted(replicas: ReplicaRegistry, endpoints: EndpointResolver) -> None:
    """Remove restored replicas that `admin.engine_networks`, changed since they were saved, leaves out."""
    for replica in list(replicas):
        try:
            endpoints.check(ip_address(replica.host))
        except RegistrationError as error:
            log.warning("saved replica not restored", replica=replica.id, error=str(error))
            replicas.remove(replica.id)


async def register_static(
    static: Iterable[StaticReplica], replicas: ReplicaRegistry, endpoints: EndpointResolver, now_s: float
) -> None:
    """Register the replicas of the settings. Raises SettingsError for one that cannot be registered."""
    for one in static:
        registration = Registration(
            url=one.url, model=one.model, adapters=one.adapters, health_path=one.health_path, role=one.role
        )
        try:
            endpoint = await endpoints.resolve(one.url, within_s=START_RESOLVE_S)
            replicas.put(one.id, registration, endpoint, now_s)
        except (RegistrationError, ResolveError) as error:
            expected = f"a replica {one.id} that can be registered ({error})"
            raise SettingsError("replicas", one.url, expected) from error
