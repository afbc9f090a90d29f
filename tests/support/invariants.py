"""What always holds inside the owners of the fleet's KV and of the edges' shared state: `check` after every step.

`check(owner)` raises AssertionError when an owner contradicts itself, or another one that it has to agree with.
"""

from __future__ import annotations

from collections import Counter
from functools import singledispatch

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.core import Core
from pointsman.router.edges.peers import MAX_PEERS, Peers
from pointsman.router.edges.protocol import EdgeProtocol
from pointsman.router.edges.registrations import SharedReplicas
from pointsman.router.kv.cache_mirror import CacheMirror
from pointsman.router.kv.conversation import Phase
from pointsman.router.kv.conversations import Conversations
from pointsman.router.kv.outbox import KVOutbox
from pointsman.router.kv.prefill_backlog import PrefillBacklog
from pointsman.router.kv.prefix_index import MAX_MARKED_KEYS, PrefixIndex
from pointsman.router.kv.state import KVState


@singledispatch
def check(owner: object) -> None:
    """Raises AssertionError when an owner contradicts itself."""
    raise TypeError(f"no invariants of a {type(owner).__name__} are known")


@check.register
def _(core: Core) -> None:
    core.validate()
    check(core.kv)


@check.register
def _(kv: KVState) -> None:
    check(kv.index)
    check(kv.backlog)
    check(kv.conversations)


@check.register
def _(index: PrefixIndex) -> None:
    assert not index._recent.keys() & index._older.keys(), "a key is in both layers"
    assert len(index) <= index._max_keys, "more keys than the limit"
    assert len(index.expectations.sets) <= index.expectations._limit, "more expectations than the limit"
    assert index.expectations._marked == sum(len(mark[2]) for mark in index.expectations._marks) <= MAX_MARKED_KEYS, (
        "marks are miscounted"
    )
    masks = list(index._masks.values())
    assert len(set(masks)) == len(masks), "two slots share a bit"
    assert not any(mask & index._dead for mask in masks), "a live slot's bit is dead"
    assert all(index._slot_of_bit[mask.bit_length() - 1] == slot for slot, mask in index._masks.items()), "bits stale"
    for layer in (index._recent, index._older, index.expectations.sets):
        assert 0 not in layer.values(), "a key nobody holds"


@check.register
def _(backlog: PrefillBacklog) -> None:
    columns = backlog._columns
    waiting = columns.signals.waiting - columns.waiting_elsewhere
    own = [0] * len(waiting)
    entries = [entry for _, _, entry in backlog._due if entry.open]
    for entry in entries:
        own[entry.slot] += entry.tokens
    assert waiting.tolist() == own, f"the column says {waiting.tolist()}, the entries {own}"
    assert len(entries) == len(backlog), "an open entry that will never be due"


@check.register
def _(table: Conversations) -> None:
    footprint = table._columns.signals.footprint
    known = table.by_name.values()
    own, count = [0] * len(footprint), Counter[int]()
    for one in known:
        own[one.slot] += one.own if one.live else 0
        count[one.slot] += 1
    assert footprint.tolist() == own, f"the column says {footprint.tolist()}, the table {own}"
    assert Counter(table._of_slot) == count, f"counted {table._of_slot}, there are {count}"
    assert all(name == one.name for name, one in table.by_name.items()), "a conversation under another's name"
    for phase, some in zip(Phase, table._in_phase, strict=True):
        assert all(one.phase is phase and table.by_name[name] is one for name, one in some.items()), f"{phase!r}"
    assert all(one.slot != NO_SLOT for one in known), "a dropped conversation in the table"
    assert all(one.home == table._homes.get(one.slot, "") for one in known), "a conversation at home elsewhere"
    assert sum(map(len, table._in_phase)) == len(table.by_name), "a conversation in no phase, or in two"
    assert all((one.phase is Phase.UNDER_WAY) == (one.in_flight > 0) for one in known), "under way or not?"


@check.register
def _(mirror: CacheMirror) -> None:
    assert mirror._held == sum(mirror._weights.values()), "the sum is not that of its keys"
    assert mirror._held <= mirror.limit or not mirror._weights, "more tokens than the limit"


@check.register
def _(outbox: KVOutbox) -> None:
    assert len(outbox) <= outbox._max, "more waits for the next batch than the limit"


@check.register
def _(protocol: EdgeProtocol) -> None:
    check(protocol.peers)
    check(protocol.registrations)
    check(protocol.outbox)


@check.register
def _(peers: Peers) -> None:
    """The columns are the sum of what edges published."""
    assert len(peers) <= MAX_PEERS, "more edges than the limit"
    for replica in peers._replicas:
        published = [peer.loads.get(replica.id, (0, 0, 0)) for peer in peers]
        requests, tokens, waiting = (sum(part) for part in zip((0, 0, 0), *published, strict=True))
        slot = replica.slot
        assert peers._load.elsewhere[slot] == requests, f"{replica.id}: requests elsewhere"
        assert peers._load.elsewhere_tokens[slot] == tokens, f"{replica.id}: tokens elsewhere"
        assert peers._columns.waiting_elsewhere[slot] == waiting, f"{replica.id}: waiting elsewhere"


@check.register
def _(registrations: SharedReplicas) -> None:
    """The registry, with no change left to publish, is that of the agreed records."""
    if registrations.changed:
        return
    here = {saved.id: saved for saved in registrations._replicas.saved()}
    refused = registrations._refused
    agreed = {r.id: r.replica for r in registrations.records() if r.replica is not None and r.id not in refused}
    assert here == agreed, f"registry {sorted(here)}, agreed {sorted(agreed)}"
