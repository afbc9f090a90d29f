"""A few numbers that are equal on two edges exactly when they know the same.

Sets are summed up by exclusive or of hashes, so that order does not matter and a walk can pause anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import xxhash

from pointsman.router.documents.book import Book
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState

AT_ONCE = 4096
"""Keys looked at before lookups get their turn."""

ITEMS_AT_ONCE = 1024
"""Digest of sessions and conversations, whose names are hashed here."""


class Part(msgspec.Struct, frozen=True):
    """One kind of thing: how many, and what they come to."""

    count: int
    digest: str


async def digests(
    replicas: ReplicaRegistry, sessions: SessionTable, kv: KVState, policy: Mapping[str, Any], book: Book
) -> dict[str, Part]:
    """Sum up each kind: `replicas`, `policy`, `documents`, `sessions`, `conversations`, and `resident/ID` for each
    replica."""
    ids = replicas.ids
    talks = list(kv.conversations.by_name.values())
    parts = {
        "replicas": await _part((saved.id, saved.url, saved.model, saved.draining) for saved in replicas.saved()),
        "policy": await _part([policy]),
        "documents": await _part((document.name, document.version, document.body) for document in list(book)),
        "sessions": await _part((session, replica) for session, replica, _ in sessions),
        "conversations": await _part((talk.name, ids[talk.slot], talk.turn, talk.tokens) for talk in talks),
    }
    counts = dict.fromkeys(range(len(ids)), 0)
    sums = dict.fromkeys(range(len(ids)), 0)
    for groups in kv.index.export(AT_ONCE):
        for slots, keys in groups:
            summed = 0
            for key in keys:
                summed ^= key
            for slot in map(int, slots):
                counts[slot] += len(keys)
                sums[slot] ^= summed
        await asyncio.sleep(0)
    for replica in replicas:
        parts[f"resident/{replica.id}"] = Part(counts.get(replica.slot, 0), f"{sums.get(replica.slot, 0):016x}")
    return parts


async def _part(items: Iterable[Any]) -> Part:
    summed = count = 0
    for count, item in enumerate(items, 1):
        summed ^= xxhash.xxh64_intdigest(msgspec.json.encode(item, order="sorted"))
        if count % ITEMS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return Part(count, f"{summed:016x}")
