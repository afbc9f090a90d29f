"""The KV blocks of one replica: which content is resident, who holds it, what goes first.

`BlockCache` owns all blocks. A block is *held* (some sequence uses it), *idle* (content kept for a later hit, nobody
uses it) or *blank* (no content worth keeping). held + idle + blank = capacity, always.

What vLLM 0.32 does (`vllm/v1/core/block_pool.py`), and this keeps:

- Content is found by a hash that names the whole prefix up to and including the block, full blocks only.
- A released sequence puts its blocks at the young end of the free order in reverse, so its tail goes first.
- An allocation takes blank blocks first, then evicts idle ones from the old end.
- A hit takes idle blocks out of the free order.

Blocks of one chain that are held by the same sequences are kept as one *run*, so a hit, a release or an eviction costs
work per run and not per block: a conversation of 1,500 blocks is two or three runs. Runs form a tree by prefix. A run
is held by no fewer sequences than any run below it, and a run that goes idle does so after those below it, so the
oldest idle run is always a leaf and resident content is always a whole prefix.

Where this differs from vLLM: content computed twice at the same time is held once, from the moment its block is full
(vLLM keeps both copies until they age out and reports both).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Stored(msgspec.Struct, frozen=True, gc=False):
    """Full blocks that entered the cache: consecutive, the first one below `parent` (None: it begins a prompt)."""

    parent: int | None
    hashes: tuple[int, ...]


class Removed(msgspec.Struct, frozen=True, gc=False):
    """Blocks that were evicted, in order."""

    hashes: tuple[int, ...]


class Run:
    """Consecutive blocks of one chain with the same holders. Only `BlockCache` writes to it."""

    __slots__ = ("children", "hashes", "holders", "newer", "older", "parent")

    def __init__(self, parent: Run | None, hashes: list[int], holders: int) -> None:
        self.parent = parent
        self.hashes = hashes
        self.holders = holders
        self.children: dict[int, Run] = {}
        self.older: Run = self
        self.newer: Run = self

    def __repr__(self) -> str:
        return f"Run({len(self.hashes)} blocks, {self.holders} holders, {len(self.children)} children)"


class Lease:
    """Blocks of one sequence: the chain from the root to `tip` (`full` blocks) and at most one block still filling."""

    __slots__ = ("filling", "full", "tip")

    def __init__(self, tip: Run, full: int) -> None:
        self.tip = tip
        self.full = full
        self.filling = False


class BlockCache:
    """A fixed number of blocks with prefix reuse. Not thread-safe; no call blocks or raises on a full cache."""

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self.capacity = capacity
        self.blank = capacity
        self.idle = 0
        self.events: list[Stored | Removed] = []
        """Blocks stored and evicted since `take_events`, in order."""
        self._root = Run(None, [], 1)
        self._order = Run(None, [], 1)  # Sentinel of the ring of idle runs: its `newer` is the oldest of them.
        self._private = 0

    def take_events(self) -> list[Stored | Removed]:
        """Return the blocks stored and evicted since the last call, in order."""
        events, self.events = self.events, []
        return events

    @property
    def usage(self) -> float:
        """Held blocks over all blocks, 0 to 1."""
        return self.held / self.capacity

    @property
    def available(self) -> int:
        """Blocks an allocation could take at once."""
        return self.blank + self.idle

    @property
    def held(self) -> int:
        """Distinct blocks some sequence uses."""
        return self.capacity - self.blank - self.idle

    def resident(self, hashes: Sequence[int]) -> int:
        """Count the leading blocks of this chain in the cache; changes nothing."""
        return self._walk(hashes, len(hashes))[2]

    def admit(self, hashes: Sequence[int], limit: int, total: int) -> Lease | None:
        """Hold the resident leading blocks of a chain, at most `limit`, if all `total` blocks it needs would fit.

        Returns None, changing nothing, when they would not.
        """
        run, used, depth = self._walk(hashes, limit)
        idle = used if run.holders == 0 else 0
        above = run.parent
        while above is not None and above.holders == 0:
            idle += len(above.hashes)
            above = above.parent
        if total - depth > self.blank + self.idle - idle:
            return None
        if used < len(run.hashes):
            run = self._split(run, used)
        self._hold(run)
        return Lease(run, depth)

    def grow(self, lease: Lease, hashes: Sequence[int], tokens: int, block_size: int) -> bool:
        """Make `lease` cover `tokens` tokens; blocks that thereby fill enter the cache under their hash.

        Blocks past the end of `hashes` get a private name nobody can match, so they age like any other. Returns False,
        changing nothing, when there is not enough room.
        """
        full, rest = divmod(tokens, block_size)
        wanted = full + (rest > 0) - lease.full - lease.filling
        if wanted > 0:
            if wanted > self.blank + self.idle:
                return False
            if wanted > self.blank:
                self._evict(wanted - self.blank)
            self.blank -= wanted
        lease.filling = rest > 0
        if full > lease.full:
            fresh = list(hashes[lease.full : full])
            while len(fresh) < full - lease.full:
                self._private -= 1
                fresh.append(self._private)
            lease.full = full
            lease.tip = self._insert(lease.tip, fresh)
        return True

    def release(self, lease: Lease) -> None:
        """Let go of everything `lease` covers. Full blocks stay findable until evicted, tail first."""
        if lease.filling:
            self.blank += 1
            lease.filling = False
        run: Run | None = lease.tip
        lease.tip, lease.full = self._root, 0
        order = self._order
        while run is not None and run is not self._root:
            run.holders -= 1
            if run.holders == 0:
                self.idle += len(run.hashes)
                youngest = order.older
                run.older, run.newer = youngest, order
                youngest.newer = order.older = run
            run = run.parent

    def _walk(self, hashes: Sequence[int], limit: int) -> tuple[Run, int, int]:
        """The deepest run on the chain, how many of its blocks match, and the blocks matched in all."""
        run, used, depth = self._root, 0, 0
        limit = min(limit, len(hashes))
        while depth < limit:
            child = run.children.get(hashes[depth])
            if child is None:
                break
            run, used = child, min(len(child.hashes), limit - depth)
            if child.hashes[used - 1] != hashes[depth + used - 1]:
                # A hash names its whole prefix, so where two chains part they never meet again: bisect.
                low, high = 1, used - 1
                while low < high:
                    middle = (low + high + 1) // 2
                    if child.hashes[middle - 1] == hashes[depth + middle - 1]:
                        low = middle
                    else:
                        high = middle - 1
                used = low
            depth += used
            if used < len(child.hashes):
                break
        return run, used, depth

    def _hold(self, run: Run) -> None:
        """One more holder for `run` and everything above it."""
        above: Run | None = run
        while above is not None and above is not self._root:
            if above.holders == 0:
                self.idle -= len(above.hashes)
                above.older.newer, above.newer.older = above.newer, above.older
                above.older = above.newer = above
            above.holders += 1
            above = above.parent

    def _split(self, run: Run, at: int) -> Run:
        """Cut the first `at` blocks of `run` off into a run of their own above it, and return that.

        The tail keeps its identity: leases point at the run they end in.
        """
        assert 0 < at < len(run.hashes) and run.parent is not None
        head = Run(run.parent, run.hashes[:at], run.holders)
        run.parent.children[head.hashes[0]] = head
        del run.hashes[:at]
        run.parent = head
        head.children[run.hashes[0]] = run
        if run.holders == 0:
            head.older, head.newer = run, run.newer
            run.newer.older = run.newer = head
        return head

    def _insert(self, tip: Run, fresh: list[int]) -> Run:
        """Put full blocks, already taken from the pool, below `tip`; return the run the chain ends in."""
        while True:
            child = tip.children.get(fresh[0]) if tip.children else None
            if child is None:
                break
            # Someone cached the same content meanwhile: use theirs and give our copy back.
            used = min(len(child.hashes), len(fresh))
            while child.hashes[used - 1] != fresh[used - 1]:
                used -= 1
            if used < len(child.hashes):
                child = self._split(child, used)
            if child.holders == 0:
                self.idle -= used
                child.older.newer, child.newer.older = child.newer, child.older
                child.older = child.newer = child
            child.holders += 1
            self.blank += used
            tip = child
            if used == len(fresh):
                return tip
            del fresh[:used]
        self.events.append(Stored(tip.hashes[-1] if tip.hashes else None, tuple(fresh)))
        if tip.holders == 1 and not tip.children and tip is not self._root:
            tip.hashes += fresh
            return tip
        run = Run(tip, fresh, 1)
        tip.children[fresh[0]] = run
        return run

    def _evict(self, count: int) -> None:
        """Turn the `count` oldest idle blocks into blank ones."""
        self.idle -= count
        self.blank += count
        order = self._order
        gone: list[int] = []
        while count:
            run = order.newer
            assert run is not order and not run.children and run.parent is not None
            taken = min(count, len(run.hashes))
            gone += reversed(run.hashes[-taken:])
            if taken == len(run.hashes):
                del run.parent.children[run.hashes[0]]
                run.older.newer, run.newer.older = run.newer, run.older
            else:
                del run.hashes[-taken:]
            count -= taken
        self.events.append(Removed(tuple(gone)))
