"""Invariants of every owner of state: `check` after every step.

`check(owner)` raises AssertionError when an owner contradicts itself, or another one that it has to agree with.
"""

from __future__ import annotations

from collections import Counter
from functools import singledispatch

import numpy as np
from residency import residents

from pointsman.engine.attribution import Attribution
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.core import Core
from pointsman.router.edges.forgotten import MAX_FORGOTTEN
from pointsman.router.edges.peers import MAX_PEERS, Peers
from pointsman.router.edges.protocol import EdgeProtocol
from pointsman.router.edges.registrations import SharedReplicas
from pointsman.router.fleet.adapters import UNKNOWN_SLOTS, AdapterTable
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.cache_mirror import CacheMirror
from pointsman.router.kv.conversation import Phase
from pointsman.router.kv.conversations import Conversations
from pointsman.router.kv.outbox import KVOutbox
from pointsman.router.kv.prefill_backlog import PrefillBacklog
from pointsman.router.kv.prefix_index import MAX_MARKED_KEYS, PrefixIndex
from pointsman.router.kv.state import KVState
from pointsman.router.outliers.table import OutlierTable, healthy_by_model
from pointsman.router.requests.hold_queue import HoldQueue
from pointsman.router.requests.table import RequestTable


@singledispatch
def check(owner: object) -> None:
    """Raises AssertionError when an owner contradicts itself."""
    raise TypeError(f"no invariants of a {type(owner).__name__} are known")


@check.register
def _(core: Core) -> None:
    for owner in (
        core.replicas, core.load, core.requests, core.adapters, core.outliers, core.holds, core.sessions, core.kv
    ):  # fmt: skip
        check(owner)


@check.register
def _(replicas: ReplicaRegistry) -> None:
    slots = [r.slot for r in replicas]
    assert len(set(slots)) == len(slots), "two replicas share a slot"
    assert all(replicas.ids[r.slot] == r.id for r in replicas), "ids by slot are stale"
    assert not set(slots) & set(replicas._free_slots), "a used slot is free"


@check.register
def _(sessions: SessionTable) -> None:
    assert sessions.ordered.keys() <= sessions._pins.keys(), "a session was moved that is not pinned"
    assert len(sessions) <= sessions._max, "more pins than the limit"


@check.register
def _(load: LoadTable) -> None:
    parts = load.reserved + load.foreign + load.elsewhere + load.outside
    assert (load.in_flight == parts).all(), "in-flight is not reserved, foreign, elsewhere and outside"
    assert load.in_flight.sum() == load.total_in_flight, "the total is not the sum of in-flight"
    assert load.reserved.sum() == load._held, "the total is not the sum of reserved"
    for name in ("reserved", "foreign", "elsewhere", "outside"):
        assert (getattr(load, name) >= 0).all(), f"{name} is negative"


@check.register
def _(requests: RequestTable) -> None:
    load = requests._load
    reserved, tokens = np.zeros_like(load.reserved), np.zeros_like(load.in_flight_tokens)
    waiting = 0
    for request_id, request in requests._requests.items():
        assert request.id == request_id, "a request under another's id"
        parts = [(request.slot, request.tokens, request.waiting)]
        if request.prefill is not None:
            parts.append((request.prefill.slot, request.prefill.tokens, request.prefill.waiting))
        for slot, count, entry in parts:
            if slot != NO_SLOT:
                reserved[slot] += 1
                tokens[slot] += count
            waiting += entry is not None and entry.open
        assert request.slot != NO_SLOT or not request.announced, "an announced prompt without its reservation"
    assert (reserved == load.reserved).all(), "reserved column is not the sum of reservations"
    assert (tokens + load.elsewhere_tokens == load.in_flight_tokens).all(), "tokens are not those of reservations"
    assert waiting == len(requests._backlog), "a prompt waits whose request is not here"
    assert len(requests._requests) <= requests._max and len(requests._ended) <= requests._max, (
        "more requests than the limit"
    )


@check.register
def _(adapters: AdapterTable) -> None:
    held = {(slot, name) for slot, own in adapters._loaded.items() for name in own.names}
    assert held == {(slot, name) for name, slots in adapters._holders.items() for slot in slots}
    for slot, own in adapters._loaded.items():
        assert adapters.room[slot] == max(0, (own.slots or UNKNOWN_SLOTS) - len(own.names))


@check.register
def _(outliers: OutlierTable) -> None:
    for members in healthy_by_model(outliers._replicas).values():
        out = [replica for replica in members if replica.ejected]
        assert len(out) <= outliers.config.max_share * len(members), "too many are ejected"
        assert len(out) < len(members) or not out, "all are ejected"
        assert all(replica.slot in outliers._ejections for replica in out), "ejected without evidence"
    assert outliers.probing <= outliers._ejections.keys(), "a probe without an ejection"
    assert outliers._ejections.keys() <= outliers._records.keys(), "an ejection without a record"


@check.register
def _(holds: HoldQueue) -> None:
    assert len(holds.held) <= holds._max_held, "more wait than may"
    assert holds.models == Counter(held.features.model for held in holds), "models are counted wrongly"
    assert all(held.features.request_id == name for name, held in holds.held.items()), "one under another's id"
    since = [held.since_s for held in holds]
    assert since == sorted(since), "not in the order they came"
    assert holds.owners == Counter(held.owner for held in holds), "owners are counted wrongly"
    assert holds.bytes == sum(held.bytes for held in holds), "bytes are counted wrongly"
    for asked, owners in holds._queues.items():
        assert owners, "a model that nobody waits for"
        for owner, queue in owners.items():
            assert queue and queue == sorted(queue, key=lambda held: held.key), "not in order"
            assert all(holds.held[one.features.request_id] is one for one in queue), "one that left"
            assert {(one.owner, one.asked) for one in queue} == {(owner, asked)}, "in the queue of another"
    assert len(holds._due) <= 2 * len(holds.held) + 65, "those that left pile up"


@check.register
def _(attribution: Attribution) -> None:
    assert all(count > 0 for count in attribution._copies.values()), "a block without copies"
    claims = {(key, block) for block, keys in attribution._keys_of.items() for key in keys}
    assert claims == set(attribution._block_of.items()), "keys and blocks disagree"
    assert len(attribution._block_of) <= attribution._max_keys, "more keys than the limit"


@check.register
def _(kv: KVState) -> None:
    check(kv.index)
    check(kv.backlog)
    check(kv.conversations)


@check.register
def _(index: PrefixIndex) -> None:
    assert not index._recent.keys() & index._older.keys(), "a key is in both layers"
    assert len(index) <= index.max_keys, "more keys than the limit"
    assert len(index.expectations.sets) <= index.expectations._limit, "more expectations than the limit"
    assert index.expectations._marked == sum(len(mark[2]) for mark in index.expectations._marks) <= MAX_MARKED_KEYS, (
        "marks are miscounted"
    )
    masks = list(index._masks.values())
    assert len(set(masks)) == len(masks), "two slots share a bit"
    assert not any(mask & index._dead for mask in masks), "a live slot's bit is dead"
    assert all(index._slot_of_bit[mask.bit_length() - 1] == slot for slot, mask in index._masks.items()), "bits stale"
    held = Counter(slot for slots in residents(index).values() for slot in slots)
    assert {slot: count for slot, count in index.held.items() if count} == dict(held), "keys are miscounted"
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
    assert Counter(table.of_slot) == count, f"counted {table.of_slot}, there are {count}"
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
    assert len(protocol.forgotten) <= MAX_FORGOTTEN, "more sessions are remembered as forgotten than the limit"
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
