"""One registered replica: its registration, lease, health, and the names it may be asked for.

A request's `model` names what it wants: a served model, one of its aliases or a LoRA adapter. What a replica may be
called comes from its registration and from its own `/v1/models`. `Replica` is written by the registry alone
(`pointsman.router.fleet.replicas`); everybody else reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pointsman.contract.registration import Registration, Role
from pointsman.haproxy.config import join_host_port
from pointsman.router.errors import SupersededError
from pointsman.router.fleet.saved import SavedReplica

ANY_MODEL = ""
"""The model of a request that any replica may serve."""

OTHER_MODEL = "\0"
"""A name nobody has: only replicas that serve any name may serve it."""

ANYTHING: frozenset[str] = frozenset()
"""Names of a replica whose model nobody knows."""


class Health(StrEnum):
    """Result of HAProxy's health checks."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ServedNames:
    """Names in a replica's own `/v1/models`; both sets are empty where there is no such list."""

    models: Mapping[str, str] = field(default_factory=dict)
    """Model by name; names of one model are aliases."""
    adapters: frozenset[str] = frozenset()

    def aliases(self, name: str) -> Iterable[str]:
        """Return all names of the model that `name` is one of; none where `name` is not listed."""
        model = self.models.get(name)
        return [alias for alias, other in self.models.items() if other == model]


@dataclass(slots=True)
class Replica:
    """One registered replica."""

    slot: int
    id: str
    host: str
    """IP address behind the URL."""
    port: int
    registration: Registration
    """The registration that was received last."""
    health: Health
    role: Role
    """The role in the registration."""
    lease_until_s: float | None = None
    """End of the lease; None for a replica that stays until somebody removes it."""
    heard_until_s: float | None = None
    """End of the lease by heartbeats that came here, to this edge; None without any."""
    model: str = ""
    """The registered model, or one in the replica's own list; empty while nobody knows any."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters the replica may be asked for, by registration or by its own list."""
    names: frozenset[str] | None = ANYTHING
    """Model names that the replica serves, adapters included. Empty: any; None: not known yet."""
    listed: ServedNames | None = None
    """Names in the replica's own list; None before it was read."""
    draining: bool = False
    ejected: bool = False
    """The replica gets no requests for a while, since its answers failed (`pointsman.router.outliers.table`)."""
    probing: bool = False
    """Ejected, and due for the one request that shows whether it is well again."""
    since_s: float = 0.0
    """When the replica came into its present `state`, as this edge saw it."""

    @property
    def url(self) -> str:
        return self.registration.url

    @property
    def ttl_s(self) -> float | None:
        """Length of a lease in seconds; None without leases."""
        return self.registration.ttl_s

    @property
    def pool(self) -> str:
        return self.registration.pool

    @property
    def eligible(self) -> bool:
        return self.health is Health.UP and not self.draining and (self.probing or not self.ejected)

    def takes_alias(self, alias: str) -> bool:
        """Return whether the replica serves a request for its model that asks for it by an alias: it renames the model
        itself, has the alias among its own names, or takes any name."""
        return self.registration.renames_model or self.names == ANYTHING or alias in (self.names or ())

    @property
    def address(self) -> str:
        """Host and port; an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)

    @property
    def state(self) -> str:
        """`draining`, the health, or `ejected` of a replica that is up otherwise: one word for people and metrics."""
        if self.draining:
            return "draining"
        return "ejected" if self.ejected and self.health is Health.UP else str(self.health)

    @property
    def saved(self) -> SavedReplica:
        """The registration and the drain flag, as the state file and other edges get them."""
        registration = self.registration
        return SavedReplica(
            id=self.id,
            url=registration.url,
            host=self.host,
            port=self.port,
            model=registration.model,
            ttl_s=registration.ttl_s,
            draining=self.draining,
            role=registration.role,
            pool=registration.pool,
            adapters=registration.adapters,
            health_path=registration.health_path,
            born_ms=registration.born_ms,
            renames_model=registration.renames_model,
        )

    def check_incarnation(self, born_ms: int) -> None:
        """Raises SupersededError for an incarnation that started before the registered one.

        born_ms: the start of the incarnation that asks; 0 where unknown, which is never refused.
        """
        if 0 < born_ms < self.registration.born_ms:
            raise SupersededError(f"replica {self.id!r}: a later incarnation is registered, at {self.url}")

    def renew(self, born_ms: int, now_s: float) -> bool:
        """Renews the lease for a message of the replica itself, as a heartbeat does.

        born_ms: the start of the incarnation that sent the message; 0 where unknown.
        False when there is no lease, or when an earlier incarnation than the registered one sent the message.
        """
        if self.ttl_s is None or 0 < born_ms < self.registration.born_ms:
            return False
        self.lease_until_s = self.heard_until_s = now_s + self.ttl_s
        return True

    def update(self, registration: Registration, endpoint: tuple[str, int], initial_health: Health) -> bool:
        """Takes a later registration; True when HAProxy or decisions have to learn of a change.

        endpoint: IP address and port behind the URL. Another one is another engine, which nobody has checked or asked.
        """
        before, self.registration = self.registration, registration
        self.role = registration.role
        moved = endpoint != (self.host, self.port)
        if moved:
            self.host, self.port = endpoint
            self.health, self.draining, self.listed = initial_health, False, None
            self.ejected = self.probing = False
        return moved or (
            (before.model, before.adapters, before.health_path, before.role, before.renames_model)
            != (registration.model, registration.adapters, registration.health_path, registration.role,
                registration.renames_model)
        )  # fmt: skip

    def find_names(self, *, lists_follow: bool) -> bool:
        """Finds the names: the registered model with its aliases and adapters as listed, else all that is listed.

        lists_follow: whether somebody will read the list of a replica whose list was not read yet.
        True when names, adapters or model changed.
        """
        before = (self.names, self.adapters, self.model)
        registration, listed = self.registration, self.listed
        self.adapters = frozenset(registration.adapters)
        if registration.model:
            names = [registration.model]
            if listed is not None and registration.model in listed.models:
                self.adapters |= listed.adapters
                names += listed.aliases(registration.model)
            self.model = registration.model
            self.names = self.adapters.union(names)
        elif listed is not None and listed.models:
            self.adapters |= listed.adapters
            self.model = min(listed.models)
            self.names = self.adapters.union(listed.models)
        else:
            self.model = ""
            self.names = None if listed is None and lists_follow else ANYTHING
        return (self.names, self.adapters, self.model) != before
