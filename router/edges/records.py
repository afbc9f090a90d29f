"""What edges say to each other: the records of a batch, their bytes, and which of two is right.

One batch is one entry of an edge's stream. It names replicas once, in `names`; everything else points there. All that
is said is either the present state of something (a count, a pin, a registration), of which the later word is right by a
rule that does not depend on the order of arrival, or a change in a sequence that is complete (an engine's keys).

MessagePack by msgspec: a batch is a map from short names, what there are many of are arrays. Readers ignore fields they
do not know, and a field that is missing has its default, so that a field may be added without another `SHARED_SCHEMA`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from pointsman.contract.events import EngineEvents, EngineLoad, Finished, FirstToken
from pointsman.router.fleet.saved import SavedReplica

SHARED_SCHEMA = 1
"""Of batches and of keys in Redis. Raised when a reader of the one before would misread."""

Name = str | int

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What columns of numbers take; more is no count."""


class Load(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one edge has in flight on a replica; all zero when nothing."""

    at: int
    requests: Count
    tokens: Count
    waiting: Count = 0
    """Prompt tokens in front of it without a first token."""


class Pin(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a session lives."""

    session: str
    at: int
    moves: int
    age_ms: int = 0


class Talk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The last word on a conversation, as `pointsman.router.kv.conversations` keeps it. Its replica may have left."""

    name: Name
    at: int
    turn: int
    tokens: int
    shared: int
    prompt_bytes: int
    prompt_tokens: int
    tail_at: int
    tail: int
    age_ms: int = 0
    was: Name | None = None
    under_way: bool = False
    """A request of it is, somewhere."""
    born_ms: int = 0
    """Which life of the engine keeps it, by when that began; 0 is unsaid."""
    lost: bool = False
    """That life is over. Said for whom it does not follow from the life that the engine says."""


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Keys a replica is expected to hold soon."""

    at: int
    keys: bytes
    left_ms: int = 0
    """Until the expectation is void; 0: as long as one made at this moment lasts."""


class Engine(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an engine told the edge that says it."""

    at: int
    epoch: str
    snapshot: bool = False
    stored: bytes = b""
    evicted: bytes = b""
    first: list[tuple[str, int, int, float]] = []
    """Of `FirstToken`: id, prompt tokens, cached tokens, milliseconds."""
    finished: list[tuple[str, int, int]] = []
    """Of `Finished`: id, prompt tokens, completion tokens."""
    load: tuple[int, int, int, float] | None = None
    """Of `EngineLoad`: running, waiting, queued prefill tokens, KV usage."""
    capacity_tokens: int = 0
    since: int = 0
    changes: int = 0
    """Changes of residency in its life before these and with them; 0: not numbered."""
    born_ms: int = 0
    past: list[str] = []
    """Lives before, in a snapshot."""


class Held(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Keys of a snapshot and the replicas that hold them all."""

    at: list[int]
    keys: bytes


class ReplicaRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registration, or its end. Of two about one replica the one with the greater `rank` is right."""

    id: str
    version: int
    replica: SavedReplica | None = None
    """None: it left."""
    lease_ended: bool = False
    """It left because its heartbeats did, not because somebody said so."""

    def __post_init__(self) -> None:
        if self.replica is not None and self.replica.id != self.id:
            raise ValueError(f"a record of {self.id} registers {self.replica.id}")

    @property
    def rank(self) -> tuple[int, bool, bool, bytes]:
        content = b"" if self.replica is None else msgspec.msgpack.encode(self.replica)
        return self.version, self.replica is not None, not self.lease_ended, content


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is the same on all edges, such as the live policy. The greater `rank` is right."""

    name: str
    version: int
    body: dict[str, Any]

    def __post_init__(self) -> None:
        try:
            _ = self.rank
        except TypeError as error:
            raise ValueError(f"the document {self.name} is no JSON: {error}") from error

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.version, msgspec.json.encode(self.body, order="sorted")


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """An edge asks another for a snapshot of all it knows."""

    edge: str


class Known(msgspec.Struct, array_like=True, frozen=True):
    """What one edge knows of another's stream."""

    edge: str
    spans: list[Count]
    """Bounds of `pointsman.router.edges.spans.Spans`: batches whose states it knows."""
    age_ms: Count = 0
    """Since that edge was heard."""


class Notice(msgspec.Struct, array_like=True, frozen=True):
    """The answer: a snapshot lies in the store."""

    id: str
    chunks: int
    edges: list[str]
    """Who asked."""
    positions: dict[str, int]
    """By edge, the last batch whose content is in it."""
    known: list[Known] = []
    """By edge, all batches whose states are in it, also where something is missing before."""


class Batch(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All that one edge says at once, or a part of a snapshot."""

    schema: int = msgspec.field(default=SHARED_SCHEMA, name="v")
    names: list[str] = msgspec.field(default_factory=list, name="n")
    """Replica ids that `at` points to."""
    beat: bool = msgspec.field(default=False, name="b")
    """A heartbeat: `loads` and `holds` are complete."""
    fresh: bool = msgspec.field(default=False, name="0")
    """The edge knew nothing before its first batch, which this is."""
    bye: bool = msgspec.field(default=False, name="q")
    """The edge stops."""
    warm: bool = msgspec.field(default=False, name="w")
    """The edge is in step with all others, and may be asked for a snapshot."""
    loads: list[Load] = msgspec.field(default_factory=list, name="f")
    holds: list[int] = msgspec.field(default_factory=list, name="h")
    """Replicas whose heartbeats come to this edge."""
    silent: dict[str, int] = msgspec.field(default_factory=dict, name="z")
    """Of edges that say no more, the last batch that this one has; with heartbeats."""
    gone: list[Known] = msgspec.field(default_factory=list, name="g")
    """Of the same, all batches whose states this one knows, also where something is missing before; with heartbeats."""
    replicas: list[ReplicaRecord] = msgspec.field(default_factory=list, name="r")
    documents: list[Document] = msgspec.field(default_factory=list, name="d")
    pins: list[Pin] = msgspec.field(default_factory=list, name="p")
    talks: list[Talk] = msgspec.field(default_factory=list, name="c")
    marks: list[Mark] = msgspec.field(default_factory=list, name="m")
    engines: list[Engine] = msgspec.field(default_factory=list, name="e")
    held: list[Held] = msgspec.field(default_factory=list, name="k")
    asks: list[Ask] = msgspec.field(default_factory=list, name="a")
    notices: list[Notice] = msgspec.field(default_factory=list, name="s")


class EdgeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One edge as the others find it in the roster."""

    edge: str
    """Its id, another in each life of the process."""
    name: str = ""
    """For people."""
    admin_url: str = ""
    schema: int = SHARED_SCHEMA
    seq: int = 0
    """Of its last batch when this was written."""
    since_s: float = 0.0
    """When it began, in seconds since 1970. For people."""


class _Version(msgspec.Struct):
    schema: int = msgspec.field(default=0, name="v")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)
_version_decoder = msgspec.msgpack.Decoder(_Version)


class SchemaError(Exception):
    """A batch is of a later schema than is known here."""

    def __init__(self, schema: int) -> None:
        super().__init__(f"schema {schema} is later than {SHARED_SCHEMA}, the latest known here")
        self.schema = schema


def encode(batch: Batch) -> bytes:
    return _encoder.encode(batch)


def decode(payload: bytes) -> Batch:
    """Raises SchemaError for a later schema, msgspec.MsgspecError for what is no batch."""
    try:
        schema = _version_decoder.decode(payload).schema
        if schema > SHARED_SCHEMA:
            raise SchemaError(schema)
        return _decoder.decode(payload)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def pack_keys(keys: Sequence[int]) -> bytes:
    """Prefix keys as u64, little-endian: a third shorter than as integers, and quicker."""
    return struct.pack(f"<{len(keys)}Q", *keys)


def unpack_keys(packed: bytes) -> tuple[int, ...]:
    """Raises struct.error for a length that is no multiple of eight."""
    return struct.unpack(f"<{len(packed) // 8}Q", packed)


def load_of(load: EngineLoad | None) -> tuple[int, int, int, float] | None:
    """An engine's load as it is told."""
    return None if load is None else (load.running, load.waiting, load.queued_prefill_tokens, load.kv_usage)


def engine_events(engine: Engine) -> EngineEvents:
    """What an engine said, as it said it to the edge that tells of it. Raises struct.error."""
    load = engine.load
    return EngineEvents(
        epoch=engine.epoch,
        seq=0,
        born_ms=engine.born_ms,
        snapshot=engine.snapshot,
        since=engine.since,
        at=engine.changes,
        stored=list(unpack_keys(engine.stored)),
        evicted=list(unpack_keys(engine.evicted)),
        first=[FirstToken(*first) for first in engine.first],
        finished=[Finished(*finished) for finished in engine.finished],
        load=None
        if load is None
        else EngineLoad(running=load[0], waiting=load[1], queued_prefill_tokens=load[2], kv_usage=load[3]),
        capacity_tokens=engine.capacity_tokens,
    )


class Names:
    """The table of a batch in the making."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self._at: dict[str, int] = {}

    def at(self, name: str) -> int:
        found = self._at.get(name)
        if found is None:
            found = self._at[name] = len(self.list)
            self.list.append(name)
        return found

    def all_at(self, names: Iterable[str]) -> list[int]:
        return [self.at(name) for name in names]
