"""Batches as bytes: what is written is read again, and what nobody wrote harms nobody."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing_edges import SharingEdge

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Role
from pointsman.router.decide.features import extract
from pointsman.router.documents.document import Document
from pointsman.router.edges.records import (
    NO_HOME,
    SHARED_SCHEMA,
    Batch,
    ConversationState,
    EdgeInfo,
    ExpectedKeys,
    Load,
    Pin,
    ReplicaRecord,
    SchemaError,
    decode,
    encode,
    pack_keys,
    unpack_keys,
)
from pointsman.router.fleet.saved import SavedReplica

FEW = settings(max_examples=25)
"""A batch takes long to draw."""

U64 = st.integers(0, 2**64 - 1)
COUNT = st.integers(0, 2**53)
SMALL = st.integers(0, 3)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
ID = st.sampled_from(["r1", "r2", "r3", "zone-a.r:4_"])
KEYS = st.lists(U64, max_size=6)
PACKED = KEYS.map(pack_keys)
NAME = TEXT | U64
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def saved(replica_id: str) -> st.SearchStrategy[SavedReplica]:
    return st.builds(
        SavedReplica,
        id=st.just(replica_id),
        url=TEXT,
        host=st.just("127.0.0.1"),
        port=st.integers(1, 65_535),
        model=TEXT,
        ttl_s=st.none() | st.floats(1, 86_400),
        draining=st.booleans(),
        role=st.sampled_from(Role),
        pool=TEXT,
    )


RECORD = ID.flatmap(
    lambda replica_id: st.builds(
        ReplicaRecord,
        id=st.just(replica_id),
        version=st.integers(1, 9),
        replica=st.none() | saved(replica_id),
        lease_ended=st.booleans(),
    )
)
DOCUMENT = st.builds(
    Document, name=st.just("policy"), version=st.integers(1, 9), body=st.dictionaries(TEXT, JSON, max_size=3)
)


def batches(packed: st.SearchStrategy[bytes], at: st.SearchStrategy[int]) -> st.SearchStrategy[Batch]:
    """Every field of a batch; `packed` are keys, `at` points to names."""

    def some(record: st.SearchStrategy[object]) -> st.SearchStrategy[list[object]]:
        return st.lists(record, max_size=3)

    conversation = st.builds(
        ConversationState, name=NAME, at=at | st.just(NO_HOME), turn=COUNT, tokens=COUNT, shared=COUNT,
        prompt_bytes=COUNT, prompt_tokens=COUNT, tail_at=st.integers(-1, 127), tail=U64, age_ms=COUNT,
        was=st.none() | NAME, under_way=st.booleans(), born_ms=SMALL,
    )  # fmt: skip
    return st.builds(
        Batch,
        schema=st.just(SHARED_SCHEMA),
        names=some(ID),
        beat=st.booleans(),
        bye=st.booleans(),
        loads=some(st.builds(Load, at=at, requests=COUNT, tokens=COUNT, waiting=COUNT)),
        holds=some(at),
        replicas=some(RECORD),
        documents=some(DOCUMENT),
        pins=some(st.builds(Pin, session=TEXT, at=at, moves=COUNT, age_ms=COUNT)),
        conversations=some(conversation),
        expected=some(st.builds(ExpectedKeys, at=at, keys=packed)),
        round_starts=st.booleans(),
        round_ends=st.booleans(),
    )


@FEW
@given(batches(PACKED, U64))
def test_a_batch_reads_as_it_was_written(batch: Batch) -> None:
    """Every field, whatever is in it."""
    assert decode(encode(batch)) == batch


@given(KEYS)
def test_keys_read_as_they_were_packed(keys: list[int]) -> None:
    """All 64 bits of each, in order."""
    assert list(unpack_keys(pack_keys(keys))) == keys


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(payload: bytes) -> None:
    """Nothing but the two errors a reader is prepared for."""
    with contextlib.suppress(SchemaError, msgspec.MsgspecError):
        decode(payload)


@FEW
@given(batches(PACKED, SMALL), st.data())
def test_a_batch_with_a_few_bytes_changed_is_a_batch_or_refused(batch: Batch, data: st.DataObject) -> None:
    """The like of what a broken disk or a bug makes: most of it still reads."""
    payload = bytearray(encode(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SchemaError, msgspec.MsgspecError):
        decode(bytes(payload))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x82\xa1v\x02\xa1n\x91\xa2\xff\xff", id="a name that is not UTF-8"),
        pytest.param(b"\x82\xa1v\x02\xa1d" + b"\x91" * 100_000, id="lists in lists without end"),
        pytest.param(b"\x91" * 100_000, id="no map at all, without end"),
        pytest.param(
            msgspec.msgpack.encode(
                {"v": SHARED_SCHEMA, "d": [{"name": "policy", "version": 1, "body": {"a": {1: 2}}}]}
            ),
            id="a document that is no JSON",
        ),
        pytest.param(
            msgspec.msgpack.encode({"v": SHARED_SCHEMA, "f": [[0, 2**63, 0]]}), id="more requests than a column counts"
        ),
        pytest.param(msgspec.msgpack.encode({"v": SHARED_SCHEMA, "f": [[0, -1, 0]]}), id="fewer requests than none"),
        pytest.param(msgspec.msgpack.encode({"v": SHARED_SCHEMA, "f": [[-1, 1, 0]]}), id="a name before the first"),
        pytest.param(
            msgspec.msgpack.encode(
                {
                    "v": SHARED_SCHEMA,
                    "r": [{"id": "r1", "version": 1, "replica": {"id": "r2", "url": "", "host": "h", "port": 1}}],
                }
            ),
            id="a record of one replica that registers another",
        ),
    ],
)
def test_what_is_no_batch_is_refused_in_one_way(payload: bytes) -> None:
    """So that whoever follows a stream counts it, sees a gap and goes on."""
    with pytest.raises(msgspec.MsgspecError):
        decode(payload)


@FEW
@given(st.integers(0, 2**63).filter(lambda schema: schema != SHARED_SCHEMA), batches(PACKED, SMALL))
def test_another_schema_is_refused_whatever_else_is_in_it(schema: int, batch: Batch) -> None:
    """By its number, in one sentence that names both; the first one had none in its batches."""
    payload = msgspec.msgpack.encode(msgspec.msgpack.decode(encode(batch)) | {"v": schema})
    with pytest.raises(SchemaError, match=f"^schema {schema} is not {SHARED_SCHEMA}, the one this version shares by$"):
        decode(payload)
    with pytest.raises(SchemaError):
        decode(msgspec.msgpack.encode({"v": schema, "n": {"of": "another kind"}}))


def test_fields_that_are_not_known_are_passed_over() -> None:
    """A later version of the same schema adds some."""
    plain = Batch(schema=SHARED_SCHEMA, beat=True)
    fields = msgspec.msgpack.decode(encode(plain))
    assert decode(msgspec.msgpack.encode({**fields, "zz": [1, 2, 3]})) == plain
    state = ConversationState("x", 0, 2, 10, 0, 40, 10, -1, 0, born_ms=5)
    fields = msgspec.msgpack.decode(encode(Batch(names=["r1"], conversations=[state])))
    fields["c"][0].append("more")
    assert decode(msgspec.msgpack.encode(fields)).conversations == [state]


@FEW
@given(st.lists(st.tuples(batches(st.binary(max_size=17) | PACKED, SMALL), SMALL), max_size=3))
def test_no_batch_harms_the_edge_that_reads_it(batches_read: list[tuple[Batch, int]]) -> None:
    """Names that point nowhere, half keys, counts of unknown replicas, batches out of order: what is wrong is counted,
    and the tables stay whole."""
    edge = SharingEdge("b")
    edge.register("r1", "r2")
    edge.protocol.peers.meet([EdgeInfo(edge="a")], 0.0)
    seq = 0
    for batch, ahead in batches_read:
        seq += ahead
        edge.protocol.receive("a", seq, encode(batch), 1.0)
        edge.validate()
    edge.protocol.next_batch(2.0)


@given(st.binary(min_size=1, max_size=300))
def test_whatever_a_client_calls_its_session_can_be_published(session: bytes) -> None:
    """Headers are bytes; a pin of any session is published."""
    edge = SharingEdge("a")
    edge.register("r1")
    features = extract({"id": b"q1", "session": session})
    edge.pipeline.decide(features, 0.0)
    edge.sessions.pin(features.session, "r1", 0.0)
    outgoing = edge.protocol.next_batch(1.0)
    assert decode(outgoing.payload).pins[0].session == features.session


@pytest.mark.parametrize("field", ["stored", "evicted"])
def test_an_engine_reports_no_key_beyond_64_bits(field: str) -> None:
    """JSON can spell one; it is refused where it comes in, since nothing behind can pack it."""
    message = {"epoch": "e", "seq": 0, field: [2**64]}
    with pytest.raises(msgspec.ValidationError, match="64 bits"):
        msgspec.json.decode(
            msgspec.json.encode(message | {field: []}).replace(b"[]", b"[%d]" % 2**64), type=EngineEvents
        )
    message[field] = [2**64 - 1]
    assert msgspec.convert(message, EngineEvents)
