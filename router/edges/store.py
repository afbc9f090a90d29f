"""Where edges leave their batches for each other: what a store can do, and how it fails.

A store keeps bytes in order and does not read them. Every call may raise StoreError, whose `cause` is a word for
metrics and people; no other error leaves a store. `pointsman.router.edges.redis_store` is the one there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pointsman.router.documents.document import Document
from pointsman.router.edges.protocol import Outgoing
from pointsman.router.edges.records import EdgeInfo, ReplicaRecord
from pointsman.router.errors import RouterError


class Cause(StrEnum):
    """Cause of a failure of the store."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    """No answer came in time: the store is overloaded, stopped, or the way there is."""
    LOADING = "loading"
    """The store reads its data from disk."""
    REFUSED = "refused"
    """Password, user, or what the user may do."""
    READ_ONLY = "read-only"
    """A replica answers: a failover is under way."""
    FULL = "full"
    """Out of memory."""
    SCHEMA = "schema"
    """Written by a later version."""
    ERROR = "error"


class StoreError(RouterError):
    """The store did not do it, or that is not known."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause


@dataclass(frozen=True)
class Kept:
    """Records that the store keeps for an edge that starts, whether others run or not."""

    replicas: list[ReplicaRecord] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)


@dataclass(frozen=True)
class Roster:
    """The edges that publish in a store."""

    life: str
    """Mark of one life of the store; another one means that the store lost what it kept."""
    edges: list[EdgeInfo]


Entry = tuple[str, int, bytes]
"""Edge, batch number, batch."""


class Store(Protocol):
    """One fleet's place in a store."""

    async def open(self) -> Kept:
        """Check that the store can be used, and by this version."""

    async def append(self, edge: str, outgoing: Outgoing, info: EdgeInfo, *, keep_from: int) -> Roster | None:
        """Add a batch to the edge's stream, once however often it is called, and drop batches before `keep_from`.

        A heartbeat also renews what would end, and is answered with the roster; None for another batch.
        """

    async def drop_history(self, edge: str, before: int) -> None:
        """Make room by dropping the batches before this one."""

    async def read(self, following: Mapping[str, int], block_s: float) -> list[Entry]:
        """Return the batches after these numbers, by edge, waiting up to `block_s` seconds for the first."""

    async def claim(self, document: Document) -> bool:
        """Keep a document if no later version is kept; False when one is."""

    async def forget(self, edges: Sequence[str]) -> None:
        """Take edges off the roster."""

    async def close(self) -> None:
        """End all connections."""
