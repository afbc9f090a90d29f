"""The store in a real Valkey: once, in order, bounded, and failing by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from valkey_server import ValkeyProcess, running_valkey

from pointsman.router.documents.document import Document
from pointsman.router.edges.protocol import Outgoing
from pointsman.router.edges.records import SHARED_SCHEMA, EdgeInfo, ReplicaRecord
from pointsman.router.edges.redis_store import RedisStore
from pointsman.router.edges.store import Cause, StoreError
from pointsman.router.errors import SettingsError
from pointsman.router.fleet.saved import SavedReplica
from pointsman.router.process.store_url import without_password
from pointsman.router.settings import load_settings

RIGHTS = ["+@stream", "+@hash", "+@string", "+expire", "+eval", "+ping"]


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with running_valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[RedisStore]:
    """With the rights docs/how-to-share-state.md names, and no more."""
    await valkey.call("ACL", "SETUSER", "pm", "on", ">secret", "~{pointsman:fleet}:*", *RIGHTS)
    made = RedisStore(f"unix://pm:secret@{valkey.socket}", "fleet")
    await made.open()
    yield made
    await made.close()


def batch(seq: int, payload: bytes = b"x", *, beat: bool = False, **kept: Any) -> Outgoing:
    return Outgoing(seq, payload, kept.get("replicas", []), kept.get("documents", []), beat)


async def test_a_batch_sent_twice_is_stored_once(store: RedisStore) -> None:
    """Its answer was lost and it is sent again: readers see it once, in order."""
    info = EdgeInfo(edge="a")
    for seq in (1, 2, 2, 1, 3):
        await store.append("a", batch(seq, b"%d" % seq), info, keep_from=1)
    assert await store.read({"a": 0}, 0.01) == [("a", 1, b"1"), ("a", 2, b"2"), ("a", 3, b"3")]
    assert await store.read({"a": 3}, 0.01) == []


async def test_a_heartbeat_tells_who_is_there(store: RedisStore) -> None:
    """And one life of the store from another."""
    roster = await store.append("a", batch(1, beat=True), EdgeInfo(edge="a", name="first", seq=1), keep_from=1)
    assert roster is not None and roster.life and [edge.name for edge in roster.edges] == ["first"]
    again = await store.append("b", batch(1, beat=True), EdgeInfo(edge="b"), keep_from=1)
    assert again is not None and again.life == roster.life and len(again.edges) == 2
    await store.forget(["a"])
    last = await store.append("b", batch(2, beat=True), EdgeInfo(edge="b"), keep_from=1)
    assert last is not None and [edge.edge for edge in last.edges] == ["b"]


async def test_history_is_dropped_as_asked(store: RedisStore, valkey: ValkeyProcess) -> None:
    """Roughly with each batch, exactly when there is no room."""
    for seq in range(1, 501):
        await store.append("a", batch(seq), EdgeInfo(edge="a"), keep_from=max(1, seq - 100))
    assert 100 <= await valkey.call("XLEN", "{pointsman:fleet}:log:a") <= 300
    await store.drop_history("a", 500)
    assert await valkey.call("XLEN", "{pointsman:fleet}:log:a") == 1


async def test_registrations_and_documents_are_kept_for_who_comes_alone(store: RedisStore) -> None:
    """Those that left are not; of two versions of a document the later is."""
    here = ReplicaRecord(id="r1", version=1, replica=SavedReplica(id="r1", url="http://h:1", host="127.0.0.1", port=1))
    gone = ReplicaRecord(id="r2", version=2)
    policy = Document(name="policy", version=3, body={"policy": "random"})
    await store.append("a", batch(1, replicas=[here, gone], documents=[policy]), EdgeInfo(edge="a"), keep_from=1)
    assert not await store.claim(Document(name="policy", version=3, body={"policy": "least_load"}))
    kept = await store.open()
    assert (kept.replicas, kept.documents) == ([here], [policy])
    assert await store.claim(Document(name="policy", version=4, body={"policy": "least_load"}))


async def test_each_failure_has_its_name(valkey: ValkeyProcess) -> None:
    """A later schema, a wrong password, no memory, nobody there."""
    store = RedisStore(valkey.url, "fleet")
    await store.open()
    await valkey.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreError) as full:
        await store.append("a", batch(1), EdgeInfo(edge="a"), keep_from=1)
    assert full.value.cause is Cause.FULL
    await valkey.call("CONFIG", "SET", "maxmemory", 0)
    await valkey.call("SET", "{pointsman:fleet}:schema", SHARED_SCHEMA + 1)
    with pytest.raises(StoreError, match="upgrade this edge") as later:
        await store.open()
    assert later.value.cause is Cause.SCHEMA
    await store.close()
    for url, cause in ((f"unix://pm:wrong@{valkey.socket}", Cause.REFUSED), ("redis://127.0.0.1:1", Cause.UNREACHABLE)):
        other = RedisStore(url, "fleet")
        with pytest.raises(StoreError) as failed:
            await other.open()
        assert failed.value.cause is cause
        await other.close()


@pytest.mark.parametrize(
    "url", ["http://h:1", "redis://", "redis://h:99999", "redis+sentinel://h:x/m", "redis://u:secret@h:bad"]
)
def test_a_wrong_url_refuses_to_start(url: str) -> None:
    """Naming the key, and never the password."""
    with pytest.raises(SettingsError, match=r"shared\.url") as refused:
        load_settings(environment={}, overrides={"shared": {"url": url}})
    assert "secret" not in str(refused.value)


def test_passwords_are_not_shown() -> None:
    """The rest of the URL is."""
    assert without_password("rediss://me:s3cret@h:1/0") == "rediss://me:***@h:1/0"
    assert without_password("redis://h:1") == "redis://h:1"
