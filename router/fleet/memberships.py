"""Which replicas may serve which name: the memberships that decisions choose from.

`Memberships` reads the registered replicas and owns what it finds about them: the names known, and for each name a
`Membership`, the immutable, ascending array of eligible slots. Both are kept until the registry says that a replica
changed. A membership whose members are the same again has the same token, so that what a policy built on it is kept.

A replica nobody named serves any name; one whose list is still to be read waits while others have names, lest it draw
requests for models that it does not have.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pointsman.contract.registration import Role
from pointsman.policies.candidates import Slots
from pointsman.router.fleet.replica import ANY_MODEL, ANYTHING, OTHER_MODEL, Replica

MAX_NARROWED = 64
"""Memberships less some members that are kept: with a few demoted replicas every subset of them fits."""

MAX_NAMED = 10
"""Models that a reason names; how many more there are is said beside them."""

Members = tuple[tuple[int, str], ...]
"""Slots and ids, ascending by slot."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Replicas that may serve one model. Memberships of different replicas have different tokens."""

    token: int
    slots: Slots
    """Eligible replicas that take requests: all roles but prefill."""
    prefills: Mapping[int, Slots] | None = None
    """For each of them that is a decode replica, the eligible prefill replicas of its model. None without any."""
    prefills_of_all: Slots | None = None
    """Prefill slots for all of `slots`, where these are decode replicas of one model."""


class Memberships:
    """Memberships of the replicas of one registry."""

    def __init__(self, replicas: Mapping[str, Replica]) -> None:
        """replicas: those registered, by id; read, never written."""
        self._replicas = replicas
        self._names: frozenset[str] | None = None
        self._adapters: frozenset[str] | None = None
        self._current: dict[str, Membership] = {}
        """By name, while no replica changes."""
        self._latest: dict[str, tuple[Members, Membership]] = {}
        """The last one of each name, for its token."""
        self._tokens = itertools.count(1)
        self._narrowed: dict[tuple[int, frozenset[int]], Membership] = {}
        self.changes = 0
        """Changes of what is registered or eligible so far: who has seen as many has seen all."""

    def __repr__(self) -> str:
        return f"Memberships({', '.join(sorted(self.names()))})"

    def names_changed(self) -> None:
        """A replica came, left, or may be called something else."""
        self._names = self._adapters = None
        self._current.clear()
        self.changes += 1

    def eligibility_changed(self) -> None:
        """A replica of the same names is eligible now, or no longer."""
        self._current.clear()
        self.changes += 1

    # Names

    def names(self) -> frozenset[str]:
        """Return all names by which something registered may be asked for: models, aliases, adapters."""
        if self._names is None:
            self._names = ANYTHING.union(*(r.names for r in self._replicas.values() if r.names))
            kept = self._names | {ANY_MODEL, OTHER_MODEL}
            self._latest = {
                name: latest for name, latest in self._latest.items() if name in kept or name.partition("\0")[0] in kept
            }
        return self._names

    def adapters(self) -> frozenset[str]:
        """Return the names that are LoRA adapters."""
        if self._adapters is None:
            self._adapters = frozenset().union(*(r.adapters for r in self._replicas.values()))
        return self._adapters

    def serves(self, model: str) -> bool:
        """Return whether something registered may serve that name, whatever its state; an empty fleet may."""
        if model == ANY_MODEL or not self._replicas or model in self.names():
            return True
        return any(not r.names for r in self._replicas.values())

    # Memberships

    def of(self, model: str) -> Membership:
        """Return the replicas eligible for a name. An empty name may go anywhere.

        Model names come from clients: all that nothing registered has share one membership, so few are kept.
        """
        found = self._current.get(model)
        if found is None:
            known = model == ANY_MODEL or model in self.names()
            name = model if known else OTHER_MODEL
            found = self._current.get(name)
            if found is None:
                found = self._current[name] = self._build(name)
        return found

    def of_alias(self, model: str, alias: str) -> Membership:
        """Return the replicas eligible for a model that a request asks for by an alias.

        Those of them that would refuse the name are left out: see `Replica.takes_alias`.
        """
        key = f"{model}\0{alias}"
        found = self._current.get(key)
        if found is None:
            whole = self.of(model)
            slots = set(whole.slots.tolist())
            refuse = any(r.slot in slots and not r.takes_alias(alias) for r in self._replicas.values())
            found = self._current[key] = self._build(model, alias) if refuse else whole
        return found

    def without(self, members: Membership, slots: frozenset[int]) -> Membership:
        """Return a membership less some of its slots, which are not all of it. The same question has the same answer,
        token and all."""
        key = (members.token, slots)
        found = self._narrowed.get(key)
        if found is None or found.prefills is not members.prefills:
            while len(self._narrowed) >= MAX_NARROWED:
                del self._narrowed[next(iter(self._narrowed))]
            left = members.slots[~np.isin(members.slots, list(slots))]
            token = next(self._tokens) if found is None else found.token
            found = self._narrowed[key] = Membership(token, left, members.prefills, members.prefills_of_all)
        return found

    def _build(self, model: str, alias: str = "") -> Membership:
        some_are_named = bool(self.names())
        members = tuple(
            sorted(
                (r.slot, r.id)
                for r in self._replicas.values()
                if r.eligible
                and r.role is not Role.PREFILL
                and _may_serve(r, model, some_are_named)
                and (not alias or r.takes_alias(alias))
            )
        )
        prefills, of_all = self._prefills(members)
        key = f"{model}\0{alias}" if alias else model
        previous = self._latest.get(key)
        if previous is not None and previous[0] == members:
            before = previous[1]
            if prefills is None and before.prefills is None:
                return before
            built = Membership(before.token, before.slots, prefills, of_all)
        else:
            slots = np.array([slot for slot, _ in members], dtype=np.intp)
            built = Membership(next(self._tokens), slots, prefills, of_all)
        self._latest[key] = (members, built)
        return built

    def _prefills(self, members: Members) -> tuple[dict[int, Slots] | None, Slots | None]:
        """Return `Membership.prefills` and `prefills_of_all`."""
        decodes = [replica for _, name in members if (replica := self._replicas[name]).role is Role.DECODE]
        if not decodes:
            return None, None
        by_model: dict[str, list[int]] = {replica.model: [] for replica in decodes}
        for replica in self._replicas.values():
            if replica.role is Role.PREFILL and replica.eligible and replica.model in by_model:
                by_model[replica.model].append(replica.slot)
        slots = {model: np.array(sorted(found), dtype=np.intp) for model, found in by_model.items()}
        of_all = next(iter(slots.values())) if len(slots) == 1 and len(decodes) == len(members) else None
        return {replica.slot: slots[replica.model] for replica in decodes}, of_all

    def why_none_serves(self) -> str:
        """Return the reason why no replica can take a request; empty while one can."""
        serving = [r for r in self._replicas.values() if r.role is not Role.PREFILL]
        if any(r.eligible for r in serving):
            return ""
        if not serving:
            return "no replica can serve: none is registered"
        return f"no replica can serve: {_counted(serving)}"

    def why_some_models_are_out(self) -> str:
        """Return which models no replica can serve, and why, while others are served; empty where there is none."""
        by_model: dict[str, list[Replica]] = {}
        for replica in self._replicas.values():
            if replica.role is not Role.PREFILL:
                if replica.eligible and replica.names == ANYTHING:
                    return ""  # it takes requests for any of them
                by_model.setdefault(replica.model, []).append(replica)
        out = {name: some for name, some in by_model.items() if name and not any(one.eligible for one in some)}
        if not out or not any(one.eligible for some in by_model.values() for one in some):
            return ""  # with none of any model, `why_none_serves` says so
        words = [f"no replica can serve {name}: {_counted(out[name])}" for name in sorted(out)[:MAX_NAMED]]
        return "; ".join([*words, f"and {len(out) - MAX_NAMED} models more"] if len(out) > MAX_NAMED else words)


def _counted(replicas: list[Replica]) -> str:
    """Replicas by state, in words: `1 down, 2 draining`."""
    counts = Counter(replica.state for replica in replicas)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _may_serve(replica: Replica, model: str, some_are_named: bool) -> bool:
    if replica.names is None:
        return not some_are_named
    return model == ANY_MODEL or not replica.names or model in replica.names
