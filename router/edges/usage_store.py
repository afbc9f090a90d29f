"""Usage of all edges in Redis: one hash an hour, in which each life of an edge writes fields of its own.

A field holds the present value of one row of one life, so that it may be written any number of times, and a query adds
up the fields of all lives. Nothing is read while a request waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from pointsman.router.edges.keys import Keys
from pointsman.router.edges.redis_store import connect, disconnect, mapped
from pointsman.router.tenancy.usage import COLUMNS, UsageKey, UsageNames, Values, summed

TIMEOUT_S = 5.0
"""Limit of one round trip; a person waits for the answer, or nobody."""

HOURS_PER_READ = 48
FIELDS_PER_WRITE = 1000

_values = msgspec.msgpack.Decoder(tuple[float, ...])
_pack = msgspec.msgpack.encode


class UsageStore:
    """The usage of one group of edges."""

    def __init__(self, url: str, name: str, *, tls_ca: str = "", retention_s: int) -> None:
        """Prepare a client that connects later. retention_s: seconds for which an hour is kept."""
        self._keys = Keys(name)
        self._redis: Any = connect(url, timeout_s=TIMEOUT_S, tls_ca=tls_ca)
        self._retention_s = retention_s

    async def write(self, life: str, rows: Sequence[tuple[UsageKey, Values]]) -> None:
        """Put rows of one life of an edge. Raises StoreError."""
        for begin in range(0, len(rows), FIELDS_PER_WRITE):
            by_hour: dict[int, dict[str, bytes]] = {}
            for key, values in rows[begin : begin + FIELDS_PER_WRITE]:
                by_hour.setdefault(key.hour, {})[field_of(life, key.names)] = _pack(values)
            async with mapped():
                pipe = self._redis.pipeline(transaction=False)
                for hour, fields in by_hour.items():
                    pipe.hset(self._keys.usage(hour), mapping=fields)
                    pipe.expire(self._keys.usage(hour), self._retention_s)
                await pipe.execute()

    async def read(self, begin: int, end: int) -> AsyncIterator[list[tuple[UsageKey, Values]]]:
        """Rows of the hours from `begin` to before `end`, lives added up, hour by hour. Raises StoreError."""
        for first in range(begin, end, HOURS_PER_READ):
            hours = range(first, min(end, first + HOURS_PER_READ))
            async with mapped():
                pipe = self._redis.pipeline(transaction=False)
                for hour in hours:
                    pipe.hgetall(self._keys.usage(hour))
                answers = await pipe.execute()
            for hour, fields in zip(hours, answers, strict=True):
                if fields:
                    yield sorted(summed(_rows(hour, fields.items())).items())

    async def close(self) -> None:
        """End the connection."""
        await disconnect(self._redis)


def field_of(life: str, names: UsageNames) -> str:
    """The field of one row of one life."""
    return "|".join(quote(part, safe="/: ") for part in (life, *names))


def _rows(hour: int, fields: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[UsageKey, Values]]:
    """Rows of one hour; what a later version wrote in another form is passed over."""
    for field, raw in fields:
        parts = [unquote(part) for part in field.decode().split("|")]
        try:
            values = _values.decode(raw)
        except msgspec.MsgspecError:
            continue
        if len(parts) == 1 + len(UsageNames._fields) and len(values) >= len(COLUMNS):
            yield UsageKey(hour, UsageNames(*parts[1:])), values[: len(COLUMNS)]
