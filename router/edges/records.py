"""Records that edges send each other in batches, their bytes, and which of two is right.

One batch is one entry of an edge's stream. It names replicas once, in `names`; all other records point there. A record
is either a state (a registration, a document, a session pin, a conversation, work in flight), of which the greater rank
or the later batch is right, or a hint that ends by itself (keys that a replica is expected to hold soon). Nothing is a
change that builds on another one, so any batch may be missing.

MessagePack by msgspec: a batch is a map from short names, records there are many of are arrays. Readers ignore fields
they do not know, and a field that is missing has its default, so that a field may be added without another
`SHARED_SCHEMA`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec

from pointsman.router.documents.document import Document
from pointsman.router.fleet.saved import SavedReplica
from pointsman.router.kv.conversation import Name

SHARED_SCHEMA = 2
"""Schema of batches and of keys in Redis, the same on all edges that share. Raised when a reader would misread."""

MAX_COUNT = 2**53
"""The largest integer that a column of float64 holds exactly."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

At = Annotated[int, msgspec.Meta(ge=0)]
"""Index of a replica in a batch's names."""

NO_HOME = -1
"""Value in place of a replica: the conversation was dropped."""


class Load(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Work that one edge has in flight on a replica, in absolute numbers; all zero when it has none."""

    at: At
    requests: Count
    tokens: Count
    waiting: Count = 0
    """Prompt tokens of requests without a first token."""


class Pin(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """State of a session: the replica that it is pinned to."""

    session: str
    at: At
    moves: int
    age_ms: int = 0
    """Time since the session was last seen."""
    ordered: bool = False
    """An operator moved the session there, and no request of it followed yet."""


class ConversationState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """State of a conversation, as `pointsman.router.kv.conversation` describes it."""

    name: Name
    at: Annotated[int, msgspec.Meta(ge=NO_HOME)]
    """Home of the conversation; `NO_HOME` where its writer dropped it."""
    turn: int = 0
    tokens: int = 0
    shared: int = 0
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    tail_at: int = -1
    tail: int = 0
    age_ms: int = 0
    """Time since a request of the conversation last came or ended."""
    was: Name | None = None
    """Name that the conversation gave up; None where it kept its name."""
    under_way: bool = False
    """A request of the conversation is under way at the edge that publishes this."""
    born_ms: int = 0


class ExpectedKeys(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Hint: prefix keys that a replica is expected to hold soon. Each reader ends it by its own clock."""

    at: At
    keys: bytes


class ForgottenSession(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A session that somebody had forgotten: states of it that were in use only before are void."""

    name: Name
    age_ms: Annotated[int, msgspec.Meta(ge=0)]
    """Time since it was forgotten."""


class ScopeUse(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Use of a tenant's or key's limits by one edge, in all since its process began."""

    scope: str
    requests: float
    tokens: float
    in_flight: Count


class ReplicaRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registration, or its end. Of two about one replica the one with the greater `rank` is right."""

    id: str
    version: int
    replica: SavedReplica | None = None
    """Registration of the replica; None for one that was removed."""
    lease_ended: bool = False
    """The replica was removed because its heartbeats ceased, not by a request."""

    def __post_init__(self) -> None:
        if self.replica is not None and self.replica.id != self.id:
            raise ValueError(f"a record of {self.id} registers {self.replica.id}")

    @property
    def rank(self) -> tuple[int, bool, bool, bytes]:
        content = b"" if self.replica is None else msgspec.msgpack.encode(self.replica)
        return self.version, self.replica is not None, not self.lease_ended, content


class Batch(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything that one edge publishes at once."""

    schema: int = msgspec.field(default=0, name="v")
    """Schema of the batch; 0 until it is encoded."""
    names: list[str] = msgspec.field(default_factory=list, name="n")
    """Replica ids that `at` points to."""
    beat: bool = msgspec.field(default=False, name="b")
    """A heartbeat: `loads` and `holds` are complete."""
    bye: bool = msgspec.field(default=False, name="q")
    """The edge stops."""
    loads: list[Load] = msgspec.field(default_factory=list, name="f")
    holds: list[At] = msgspec.field(default_factory=list, name="h")
    """Replicas whose heartbeats reach this edge."""
    replicas: list[ReplicaRecord] = msgspec.field(default_factory=list, name="r")
    documents: list[Document] = msgspec.field(default_factory=list, name="d")
    pins: list[Pin] = msgspec.field(default_factory=list, name="p")
    conversations: list[ConversationState] = msgspec.field(default_factory=list, name="c")
    expected: list[ExpectedKeys] = msgspec.field(default_factory=list, name="m")
    forgotten: list[ForgottenSession] = msgspec.field(default_factory=list, name="g")
    """Sessions that somebody had forgotten at this edge lately."""
    uses: list[ScopeUse] = msgspec.field(default_factory=list, name="u")
    """Use of limits, complete with a heartbeat."""
    round_starts: bool = msgspec.field(default=False, name="s")
    """The edge repeats all states that it answers for from this batch on."""
    round_ends: bool = msgspec.field(default=False, name="e")
    """The edge has repeated all of them with this batch."""


class EdgeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One edge as the others find it in the roster."""

    edge: str
    """Id of the edge, another one after each start of the process."""
    name: str = ""
    """Name of the edge for people."""
    admin_url: str = ""
    schema: int = SHARED_SCHEMA
    seq: int = 0
    """Number of its last batch when this was written."""
    since_s: float = 0.0
    """Start of the edge in seconds since 1970, for people."""


class _Version(msgspec.Struct):
    schema: int = msgspec.field(default=0, name="v")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)
_version_decoder = msgspec.msgpack.Decoder(_Version)


class SchemaError(Exception):
    """A batch is of another schema than is known here."""

    def __init__(self, schema: int) -> None:
        super().__init__(f"schema {schema} is not {SHARED_SCHEMA}, the one this version shares by")
        self.schema = schema


def encode(batch: Batch) -> bytes:
    """Return the bytes of a batch, which gets its schema with this."""
    batch.schema = batch.schema or SHARED_SCHEMA
    return _encoder.encode(batch)


def decode(payload: bytes) -> Batch:
    """Return the batch that was encoded.

    Raises SchemaError for another schema, msgspec.MsgspecError for bytes that are no batch.
    """
    try:
        schema = _version_decoder.decode(payload).schema
        if schema != SHARED_SCHEMA:
            raise SchemaError(schema)
        return _decoder.decode(payload)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def pack_keys(keys: Sequence[int]) -> bytes:
    """Pack prefix keys as u64, little-endian: a third shorter than as integers, and quicker."""
    return struct.pack(f"<{len(keys)}Q", *keys)


def unpack_keys(packed: bytes) -> tuple[int, ...]:
    """Unpack prefix keys. Raises struct.error for a length that is no multiple of eight."""
    return struct.unpack(f"<{len(packed) // 8}Q", packed)


class Names:
    """The replica ids that one batch names, in the making."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self._at: dict[str, int] = {}

    def at(self, name: str) -> int:
        """Return the index of a replica id in `list`, to which it is added."""
        found = self._at.get(name)
        if found is None:
            found = self._at[name] = len(self.list)
            self.list.append(name)
        return found
