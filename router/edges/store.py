"""Where edges leave their batches for each other: what a store can do, and how it fails.

A store keeps bytes in order and knows nothing of what they mean. Every call may fail with StoreError, whose `cause` is
a word for metrics and people; nothing else escapes. `pointsman.router.edges.redis_store` is the one there is; without
one, an edge is alone and shares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pointsman.router.edges.member import Outgoing
from pointsman.router.edges.records import Document, EdgeInfo, ReplicaRecord
from pointsman.router.errors import RouterError


class Cause(StrEnum):
    """Why a store did not do what it was asked."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    """No answer in time: it is overloaded, stopped, or the way there is."""
    LOADING = "loading"
    """It reads its data from disk."""
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
    """What the store keeps for an edge that comes when nobody is there to ask."""

    replicas: list[ReplicaRecord] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)


@dataclass(frozen=True)
class Roster:
    """Who is there."""

    life: str
    """Another one means that the store lost what it kept."""
    edges: list[EdgeInfo]


Entry = tuple[str, int, bytes]
"""Edge, batch number, batch."""


class Store(Protocol):
    """One fleet's place in a store."""

    async def open(self) -> Kept:
        """Checks that it can be used, and by this version."""

    async def append(self, edge: str, outgoing: Outgoing, info: EdgeInfo, *, keep_from: int) -> Roster | None:
        """Adds a batch to the edge's stream, once however often it is called, and drops what is older than
        `keep_from`. With a heartbeat it renews what would end and answers who is there."""

    async def drop_history(self, edge: str, before: int) -> None:
        """Makes room: batches before this one go."""

    async def read(self, following: Mapping[str, int | None], block_s: float) -> list[Entry]:
        """What came after these positions (None: what comes from now on), waiting so long when nothing did."""

    async def add_part(self, snapshot_id: str, part: bytes) -> None:
        """The next part of a snapshot."""

    async def parts(self, snapshot_id: str, start: int, count: int) -> list[bytes]:
        """Parts of a snapshot; fewer when they are gone."""

    async def claim(self, document: Document) -> bool:
        """Keeps a document if no later version is kept; False when one is."""

    async def forget(self, edges: Sequence[str]) -> None:
        """These edges are not there any more."""

    async def close(self) -> None:
        """Ends all connections."""
