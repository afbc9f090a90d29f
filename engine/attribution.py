"""From what an engine says of its KV blocks to what a router wants to know: which prompt prefixes are resident.

A router names prefixes by *prefix keys* (router/prefix_keys.py), made from the bytes of a body. An engine names blocks
of tokens by hashes of its own. Both are known where a request is served: its body gives the keys, `key_depths` how many
blocks deep each of them ends, and the engine's events which block lies there. `Attribution` keeps key and block
together: a key is resident exactly while its block is. Pure: no clock, no I/O.

What engines do that this has to live with:

- The same content may be cached twice (vLLM keeps both copies and reports both): a block is gone when its last copy is.
- An event names its first block's parent, not its depth: depths are counted along the parents.
- A prefix that was resident before the request came is reported by no event: its blocks are found upwards from the
  parent of the first one that is.
- Caches evict the tail of a chain first, so keys go deepest first and residency stays closed under prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.prefix_keys import BOUNDARIES
from router.state.schema import MAX_EVENT_KEYS

MAX_CLAIMED_KEYS = MAX_EVENT_KEYS
"""Keys with a block; an engine with 500,000 tokens of KV has some 1,000. When met, further keys are not claimed."""

MAX_OPEN_REQUESTS = 65_536
"""Requests whose keys still look for their blocks. When met, the oldest is given up."""


def key_depths(keys: int, prompt_bytes: int, prompt_tokens: int, block_size: int) -> list[int]:
    """How many full blocks each of the first `keys` keys covers, at least one.

    By proportion: `prompt_bytes` from the start of the chain on make `prompt_tokens`, everywhere alike.
    """
    per_byte = prompt_tokens / max(1, prompt_bytes) / block_size
    return [max(1, int(boundary * per_byte)) for boundary in BOUNDARIES[:keys]]


class Attribution:
    """Which prefix keys are resident in one engine."""

    def __init__(self, *, max_keys: int = MAX_CLAIMED_KEYS) -> None:
        self._max_keys = max_keys
        self._copies: dict[int, int] = {}
        self._depth: dict[int, int] = {}
        self._parent: dict[int, int | None] = {}
        self._block_of: dict[int, int] = {}
        self._keys_of: dict[int, list[int]] = {}
        self._open: dict[str, list[tuple[int, int]]] = {}
        """By request, the (depth, key) that have no block yet; deepest last."""
        self._changed: dict[int, bool] = {}
        self.unclaimed = 0
        """Keys that found no room."""

    def __repr__(self) -> str:
        return f"Attribution({len(self._copies)} blocks, {len(self._block_of)} keys, {len(self._open)} requests)"

    # Requests

    def begin(self, request_id: str, keys: Sequence[int], depths: Sequence[int], blocks: Sequence[int] = ()) -> None:
        """A request with these keys, `depths` blocks deep. `blocks`: its chain, where it is known beforehand."""
        if not keys:
            return
        if len(self._open) >= MAX_OPEN_REQUESTS:
            self.finish(next(iter(self._open)))
        wanted: list[tuple[int, int]] = []
        for key, depth in zip(keys, depths, strict=True):
            if depth <= len(blocks):
                self._claim(key, blocks[depth - 1])
            if self._block_of.get(key) not in self._copies:
                wanted.append((depth, key))
        if wanted:
            self._open[request_id] = wanted

    def finish(self, request_id: str) -> None:
        """It ended: what it claimed and did not get is given up."""
        for _, key in self._open.pop(request_id, ()):
            block = self._block_of.get(key)
            if block is not None and block not in self._copies:
                self._unclaim(key, block)

    # The engine's events

    def stored(self, blocks: Sequence[int], parent: int | None, request_id: str = "") -> None:
        """Blocks entered the cache, one below the other, the first below `parent` (None: it begins a prompt)."""
        depth = 0 if parent is None else self._depth.get(parent, -1)
        wanted = self._open.get(request_id)
        if wanted and depth >= 0:
            self._settle(request_id, wanted, blocks, parent, depth)
        above = parent
        for block in blocks:
            if depth >= 0:
                depth += 1
                self._depth[block] = depth
                self._parent[block] = above
            above = block
            copies = self._copies.get(block, 0)
            self._copies[block] = copies + 1
            if not copies:
                for key in self._keys_of.get(block, ()):
                    self._changed[key] = True

    def removed(self, blocks: Iterable[int]) -> None:
        """Copies of blocks left the cache; one that was never heard of is passed over."""
        for block in blocks:
            copies = self._copies.get(block, 0)
            if copies > 1:
                self._copies[block] = copies - 1
            elif copies:
                del self._copies[block]
                self._depth.pop(block, None)
                self._parent.pop(block, None)
                for key in self._keys_of.pop(block, ()):
                    del self._block_of[key]
                    self._changed[key] = False

    def cleared(self) -> None:
        """The cache is empty."""
        for block, keys in self._keys_of.items():
            if block in self._copies:
                for key in keys:
                    self._changed[key] = False
        for table in (self._copies, self._depth, self._parent, self._block_of, self._keys_of, self._open):
            table.clear()

    # What a router wants

    def take(self) -> tuple[list[int], list[int]]:
        """Keys stored and keys evicted since the last call; one that came and went in between counts as evicted."""
        changed, self._changed = self._changed, {}
        return [key for key, is_in in changed.items() if is_in], [key for key, is_in in changed.items() if not is_in]

    def resident(self) -> list[int]:
        """All keys that are resident."""
        return [key for key, block in self._block_of.items() if block in self._copies]

    def _settle(
        self, request_id: str, wanted: list[tuple[int, int]], blocks: Sequence[int], parent: int | None, depth: int
    ) -> None:
        """Gives keys the blocks of an event that lies `depth` blocks deep, and those above it."""
        left: list[tuple[int, int]] = []
        above, at = parent, depth
        for want, key in reversed(wanted):
            if want > depth + len(blocks):
                left.append((want, key))
            elif want > depth:
                self._claim(key, blocks[want - depth - 1])
            else:
                while above is not None and at > want:
                    above, at = self._parent.get(above), at - 1
                if above is not None:
                    self._claim(key, above)
        if left:
            self._open[request_id] = left[::-1]
        else:
            del self._open[request_id]

    def _claim(self, key: int, block: int) -> None:
        before = self._block_of.get(key)
        if before == block or before in self._copies:
            return
        if before is not None:
            self._unclaim(key, before)
        elif len(self._block_of) >= self._max_keys:
            self.unclaimed += 1
            return
        self._block_of[key] = block
        self._keys_of.setdefault(block, []).append(key)
        if block in self._copies:
            self._changed[key] = True

    def _unclaim(self, key: int, block: int) -> None:
        del self._block_of[key]
        keys = self._keys_of[block]
        keys.remove(key)
        if not keys:
            del self._keys_of[block]

    def validate(self) -> None:
        """Raises AssertionError when the tables contradict each other (tests call it after every step)."""
        assert all(count > 0 for count in self._copies.values()), "a block without copies"
        claims = {(key, block) for block, keys in self._keys_of.items() for key in keys}
        assert claims == set(self._block_of.items()), "keys and blocks disagree"
        assert len(self._block_of) <= self._max_keys, "more keys than the limit"
