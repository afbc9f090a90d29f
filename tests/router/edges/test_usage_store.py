"""Usage of several edges in a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from valkey_server import ValkeyProcess, running_valkey

from pointsman.router.edges.store import StoreError
from pointsman.router.edges.usage_store import HOURS_PER_READ, UsageStore, field_of
from pointsman.router.tenancy.usage import UsageKey, UsageNames, Values

NAMES = UsageNames("acme", "k1", "org/model|7", "")
HOUR = 494_532


def values(requests: float) -> Values:
    return (requests, *[10 * requests] * 8)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyProcess]:
    async with running_valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[UsageStore]:
    made = UsageStore(valkey.url, "fleet", retention_s=3600)
    yield made
    await made.close()


async def requests_of(store: UsageStore, begin: int, end: int) -> dict[UsageKey, float]:
    return {key: figures[0] async for rows in store.read(begin, end) for key, figures in rows}


async def test_lives_of_edges_add_up(store: UsageStore, valkey: ValkeyProcess) -> None:
    """However often each writes what it has; an hour ends with its time."""
    key = UsageKey(HOUR, NAMES)
    for requests in (1, 2, 2):
        await store.write("one", [(key, values(requests))])
    await store.write("two", [(key, values(5)), (UsageKey(HOUR, UsageNames("zeta")), values(1))])
    assert await requests_of(store, HOUR, HOUR + 1) == {key: 7, UsageKey(HOUR, UsageNames("zeta")): 1}
    assert 3500 < await valkey.call("TTL", f"{{pointsman:fleet}}:usage:{HOUR}") <= 3600


async def test_hours_are_read_in_order(store: UsageStore) -> None:
    """As many as were asked for, whatever their number."""
    hours = (HOUR, HOUR + HOURS_PER_READ - 1, HOUR + HOURS_PER_READ, HOUR + 3 * HOURS_PER_READ)
    await store.write("one", [(UsageKey(hour, NAMES), values(1)) for hour in hours])
    found = await requests_of(store, HOUR, HOUR + 3 * HOURS_PER_READ)
    assert [key.hour for key in found] == list(hours[:3])


async def test_what_a_later_version_wrote_is_passed_over(store: UsageStore, valkey: ValkeyProcess) -> None:
    """Fields of another form; further figures behind those that are known."""
    where = f"{{pointsman:fleet}}:usage:{HOUR}"
    await valkey.call("HSET", where, "life|tenant", b"\x93\x01\x02\x03")
    await valkey.call("HSET", where, field_of("life", NAMES), b"no msgpack")
    await store.write("one", [(UsageKey(HOUR, NAMES), (*values(1), 7.0))])
    assert await requests_of(store, HOUR, HOUR + 1) == {UsageKey(HOUR, NAMES): 1}


async def test_a_store_that_is_away_says_so(store: UsageStore, valkey: ValkeyProcess) -> None:
    """Reading and writing."""
    await valkey.kill()
    with pytest.raises(StoreError):
        await store.write("one", [(UsageKey(HOUR, NAMES), values(1))])
    with pytest.raises(StoreError):
        await requests_of(store, HOUR, HOUR + 1)
