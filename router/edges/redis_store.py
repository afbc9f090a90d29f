"""The store in Redis or Valkey, alone, behind Sentinel, or in a cluster.

Two connections: one writes, one waits in XREAD. Commands are those of streams, strings and hashes of Redis 6.2, and one
script. No command is tried again here: who calls knows whether that makes sense.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pointsman.router.documents.document import Document
from pointsman.router.edges.keys import FIELD, STREAM_TTL_S, Keys, entry_id, seq_of
from pointsman.router.edges.protocol import Outgoing
from pointsman.router.edges.records import SHARED_SCHEMA, EdgeInfo, ReplicaRecord
from pointsman.router.edges.store import Cause, Entry, Kept, Roster, StoreError
from pointsman.router.process.store_url import check_url, sentinels

TIMEOUT_S = 1.0
"""Limit of one round trip: Redis answers in a fraction of a millisecond, or is in trouble."""

ENTRIES_PER_READ = 64
"""Entries of each stream in one read: an edge far behind catches up in steps that lookups do not notice."""

_ALREADY_THERE = "equal or smaller"
"""XADD of an id that is not greater than the stream's last (t_stream.c): the batch arrived, its answer did not."""

_TAKES_NO_WRITES = ("UNBLOCKED", "MASTERDOWN", "MISCONF", "NOREPLICAS")
"""Errors of a server that became a replica while a read waited, that lost its master, its disk, or its replicas."""

_CLAIM = """
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if kept and tonumber(string.match(kept, '^(%d+):')) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

T = TypeVar("T")
_pack = msgspec.msgpack.encode


class RedisStore:
    """One fleet's keys in Redis."""

    def __init__(self, url: str, name: str, *, tls_ca: str = "") -> None:
        """Prepare two clients that connect later. Raises ValueError for a URL that cannot be used."""
        self._keys = Keys(name)
        self._address = url
        self._writer = connect(url, timeout_s=TIMEOUT_S, tls_ca=tls_ca)
        self._reader = connect(url, timeout_s=2 * TIMEOUT_S, tls_ca=tls_ca)
        self.commands = 0
        """Commands sent by the writer and the reader."""

    async def open(self) -> Kept:
        keys, redis = self._keys, self._writer
        async with mapped():
            await redis.set(keys.schema, SHARED_SCHEMA, nx=True)
            schema = int(await redis.get(keys.schema))
            if schema > SHARED_SCHEMA:
                raise StoreError(
                    Cause.SCHEMA,
                    f"{keys.schema} is {schema}, later than {SHARED_SCHEMA}, the latest known here: upgrade this edge",
                )
            replicas = await redis.hgetall(keys.replicas)
            documents = await redis.hgetall(keys.documents)
        self.commands += 4
        return Kept(
            list(_decoded(replicas.values(), ReplicaRecord)),
            list(_decoded((raw.partition(b":")[2] for raw in documents.values()), Document)),
        )

    async def append(self, edge: str, outgoing: Outgoing, info: EdgeInfo, *, keep_from: int) -> Roster | None:
        keys = self._keys
        log = keys.log(edge)
        async with mapped():
            pipe = self._writer.pipeline(transaction=False)
            pipe.execute_command(
                "XADD", log, "MINID", "~", entry_id(keep_from), entry_id(outgoing.seq), FIELD, outgoing.payload
            )
            for record in outgoing.replicas:
                if record.replica is None:
                    pipe.hdel(keys.replicas, record.id)
                else:
                    pipe.hset(keys.replicas, record.id, _pack(record))
            for document in outgoing.documents:
                pipe.eval(_CLAIM, 1, keys.documents, document.name, str(document.version), _versioned(document))
            if outgoing.beat:
                pipe.set(keys.life, secrets.token_hex(8), nx=True)
                pipe.set(keys.schema, SHARED_SCHEMA, nx=True)
                pipe.hset(keys.edges, edge, _pack(info))
                pipe.expire(log, STREAM_TTL_S)
                pipe.get(keys.life)
                pipe.hgetall(keys.edges)
            self.commands += len(pipe)
            answers = await pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and _ALREADY_THERE not in str(answer):
                    raise answer
        if not outgoing.beat:
            return None
        life, edges = answers[-2:]
        return Roster(life.decode() if life else "", list(_decoded(edges.values(), EdgeInfo)))

    async def drop_history(self, edge: str, before: int) -> None:
        async with mapped():
            await self._writer.execute_command("XTRIM", self._keys.log(edge), "MINID", "=", entry_id(before))
        self.commands += 1

    async def read(self, following: Mapping[str, int], block_s: float) -> list[Entry]:
        keys = self._keys
        streams: dict[Any, Any] = {keys.log(edge): entry_id(position) for edge, position in following.items()}
        self.commands += 1
        async with mapped():
            found = await self._reader.xread(streams, count=ENTRIES_PER_READ, block=max(1, int(block_s * 1000)))
        return [
            (keys.edge_of(log), seq_of(entry), fields[FIELD]) for log, entries in found for entry, fields in entries
        ]

    async def claim(self, document: Document) -> bool:
        self.commands += 1
        async with mapped():
            taken = await self._writer.eval(
                _CLAIM, 1, self._keys.documents, document.name, str(document.version), _versioned(document)
            )
        return bool(taken)

    async def forget(self, edges: Sequence[str]) -> None:
        self.commands += 1
        async with mapped():
            await self._writer.hdel(self._keys.edges, *edges)

    async def close(self) -> None:
        for client in (self._reader, self._writer):
            await disconnect(client)


async def disconnect(client: Any) -> None:
    """End all connections of a client of `connect`."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):  # which leaves those to sentinels open
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def connect(url: str, *, timeout_s: float, tls_ca: str = "") -> Any:
    """Return a client that never tries again by itself. Raises ValueError naming what is wrong with the URL.

    `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS, `unix://PATH`;
    `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],...[/MASTER[/DB]][?sentinel_password=...]` asks sentinels who the
    master is; `redis+cluster://` follows a cluster's slots.
    """
    check_url(url)
    scheme, _, rest = url.partition("://")
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    tls = scheme.startswith("rediss")
    if tls and tls_ca:
        options["ssl_ca_certs"] = tls_ca
    if scheme.endswith("+sentinel"):
        return _sentinel(url, options | ({"ssl": True} if tls else {}))
    if scheme.endswith("+cluster"):
        del options["retry"]
        return RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options)
    return Redis.from_url(url, **options)


def _sentinel(url: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    master, _, db = parts.path.strip("/").partition("/")
    sentinel_password = parse_qs(parts.query).get("sentinel_password", [""])[0]
    own: dict[str, Any] = {key: options[key] for key in ("socket_connect_timeout", "retry", "protocol")}
    own["socket_timeout"] = TIMEOUT_S
    if sentinel_password:
        own["password"] = sentinel_password
    sentinel: Any = Sentinel(sentinels(url), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    return sentinel.master_for(
        master or "mymaster",
        username=unquote(user) or None,
        password=unquote(password) or None,
        db=int(db or 0),
        **options,
    )


def _versioned(document: Document) -> bytes:
    return f"{document.version}:".encode() + _pack(document)


def _decoded(raws: Any, into: type[T]) -> list[T]:
    """Decode what can be read: a record of a later version may not be."""
    found = []
    for raw in raws:
        try:
            found.append(msgspec.msgpack.decode(raw, type=into))
        except msgspec.MsgspecError:
            continue
    return found


@asynccontextmanager
async def mapped() -> AsyncIterator[None]:
    """Raise errors of Redis as StoreError."""
    try:
        yield
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise StoreError(Cause.REFUSED, str(error)) from error
    except BusyLoadingError as error:
        raise StoreError(Cause.LOADING, str(error)) from error
    except (RedisTimeoutError, TimeoutError) as error:
        raise StoreError(Cause.SLOW, str(error) or "no answer in time") from error
    except (RedisConnectionError, OSError) as error:
        # The client wraps what a server says to a wrong password when the connection is made.
        refused = isinstance(error.__context__, AuthenticationError) or "invalid username-password" in str(error)
        raise StoreError(Cause.REFUSED if refused else Cause.UNREACHABLE, str(error)) from error
    except ReadOnlyError as error:
        raise StoreError(Cause.READ_ONLY, str(error)) from error
    except OutOfMemoryError as error:
        raise StoreError(Cause.FULL, str(error)) from error
    except RedisError as error:
        takes_no_writes = str(error).startswith(_TAKES_NO_WRITES)
        raise StoreError(Cause.READ_ONLY if takes_no_writes else Cause.ERROR, str(error)) from error
