"""Attribution of an engine's KV blocks to the router's prefix keys: which prompt prefixes are resident.

A router names prefixes by *prefix keys* (contract/prefix_keys.py), made from the bytes of a body. An engine names
blocks of tokens by hashes of its own. Both meet where a request is served: the body gives the keys, `KeyDepths` the
number of blocks to the end of each key's prefix, and the engine's events the block that lies there. `Attribution` ties
key and block together: a key is resident exactly while its block is. Pure: no clock, no I/O.

Engines behave in ways that the module must handle:

- The same content may be cached twice (vLLM keeps both copies and reports both): a block is gone when its last copy is.
- An event names its first block's parent, not its depth: depths are counted along the parents.
- No event reports a prefix that was resident before the request came: its blocks are found upwards from the parent of
  the first block that an event reports.
- A prefix that was resident when a request came may be evicted before the request runs, which then computes it; the
  same is true of a request that is preempted. So a request's keys look for their blocks until the request ends.
- Events and answers leave the engine by different ways: events of a request's last step may come after its end. The
  caller waits a while after the end before it calls `finish`.
- Caches evict the tail of a chain first, so keys go deepest first and residency stays closed under prefixes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from pointsman.contract.events import MAX_EVENT_KEYS
from pointsman.contract.prefix_keys import BOUNDARIES

MAX_CLAIMED_KEYS = MAX_EVENT_KEYS
"""Keys with a block; an engine with 500,000 tokens of KV has some 1,000. When met, further keys are not claimed."""

MAX_OPEN_REQUESTS = 65_536
"""Requests whose keys still look for their blocks. When met, the oldest is given up."""

MAX_ANCHORS = 65_536
"""Ends of prompts whose length in tokens is remembered: 5 MB. When met, the oldest goes."""


class KeyDepths:
    """Blocks that the prefix of the key fills.

    The bytes of a prompt make its tokens by proportion, everywhere alike: a few per cent wrong where code and prose
    take turns. So the end of each prompt is remembered under its last key. The next turn of a conversation contains
    the prompts of all turns before it, and between two of their ends there is little left to be wrong about.
    """

    def __init__(self, *, max_anchors: int = MAX_ANCHORS) -> None:
        self._max_anchors = max_anchors
        self._tokens: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def blocks(self, keys: Sequence[int], prompt_bytes: int, prompt_tokens: int, block_size: int) -> list[int]:
        """Full blocks to the end of each key's prefix: at least one, never falling. Remembers the prompt's end.

        `prompt_bytes`: from the start of the chain to the end of the body.
        """
        depths: list[int] = []
        known = self._tokens
        left_bytes, left_tokens, first = 0, 0.0, 0
        for at, key in enumerate(keys):
            tokens = known.get(key, -1.0)
            # Beyond the prompt's own end it would be another model's count.
            if left_tokens <= tokens <= prompt_tokens:
                _fill(depths, first, at + 1, left_bytes, left_tokens, BOUNDARIES[at], tokens, block_size)
                left_bytes, left_tokens, first = BOUNDARIES[at], tokens, at + 1
        end_bytes = max(prompt_bytes, BOUNDARIES[len(keys) - 1] if keys else 0)
        _fill(depths, first, len(keys), left_bytes, left_tokens, end_bytes, prompt_tokens, block_size)
        if first < len(keys):
            self._remember(keys, left_bytes, left_tokens, end_bytes, prompt_tokens)
        return depths

    def _remember(
        self, keys: Sequence[int], left_bytes: int, left_tokens: float, end_bytes: int, end_tokens: int
    ) -> None:
        if len(self._tokens) >= self._max_anchors:
            self._tokens.popitem(last=False)
        share = (BOUNDARIES[len(keys) - 1] - left_bytes) / max(1, end_bytes - left_bytes)
        self._tokens[keys[-1]] = left_tokens + share * (end_tokens - left_tokens)


def _fill(
    depths: list[int],
    first: int,
    after: int,
    left_bytes: int,
    left_tokens: float,
    right_bytes: int,
    right_tokens: float,
    block_size: int,
) -> None:
    """Appends the depths of keys `first` up to and without `after`, on the line between two known points."""
    slope = (right_tokens - left_tokens) / max(1, right_bytes - left_bytes) / block_size
    offset = left_tokens / block_size - left_bytes * slope
    depths += [int(offset + boundary * slope) or 1 for boundary in BOUNDARIES[first:after]]


Block = int | bytes
"""An engine's name for a block and all before it."""


class _Request:
    """The keys of a request that is being served, and the depth of each in blocks; deepest last."""

    __slots__ = ("depths", "keys", "looked_up")

    def __init__(self, keys: Sequence[int], depths: Sequence[int]) -> None:
        self.keys = keys
        self.depths = depths
        self.looked_up = False
        """Whether the blocks that were resident before it were looked for."""


class Attribution:
    """Which prefix keys are resident in one engine."""

    def __init__(self, *, max_keys: int = MAX_CLAIMED_KEYS) -> None:
        self._max_keys = max_keys
        self._copies: dict[Block, int] = {}
        self._depth: dict[Block, int] = {}
        self._parent: dict[Block, Block | None] = {}
        self._block_of: dict[int, Block] = {}
        self._keys_of: dict[Block, list[int]] = {}
        self._open: dict[str, _Request] = {}
        self._changed: dict[int, bool] = {}

    def __repr__(self) -> str:
        return f"Attribution({len(self._copies)} blocks, {len(self._block_of)} keys, {len(self._open)} requests)"

    # Requests

    def begin(self, request_id: str, keys: Sequence[int], depths: Sequence[int], blocks: Sequence[Block] = ()) -> None:
        """Begin a request with these keys, `depths` blocks deep. `blocks`: its chain, where it is known beforehand."""
        if not keys:
            return
        if len(self._open) >= MAX_OPEN_REQUESTS:
            self.finish(next(iter(self._open)))
        for key, depth in zip(keys, depths, strict=True):
            if depth > len(blocks):
                break
            self._claim(key, blocks[depth - 1])
        self._open[request_id] = _Request(keys, depths)

    def finish(self, request_id: str) -> None:
        """End a request: its keys that found no block are dropped."""
        request = self._open.pop(request_id, None)
        if request is not None:
            for key in request.keys:
                block = self._block_of.get(key)
                if block is not None and block not in self._copies:
                    self._unclaim(key, block)

    # The engine's events

    def stored(self, blocks: Sequence[Block], parent: Block | None, request_id: str = "") -> None:
        """Note a chain of blocks that entered the cache below `parent`; None where a prompt begins."""
        depth = 0 if parent is None else self._depth.get(parent, -1)
        request = self._open.get(request_id)
        if request is not None and depth >= 0:
            self._settle(request, blocks, parent, depth)
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

    def removed(self, blocks: Iterable[Block]) -> None:
        """Note copies of blocks that left the cache; an unknown block is passed over."""
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
        """Note that the cache is empty."""
        for block, keys in self._keys_of.items():
            if block in self._copies:
                for key in keys:
                    self._changed[key] = False
        for table in (self._copies, self._depth, self._parent, self._block_of, self._keys_of):
            table.clear()
        for request in self._open.values():
            request.looked_up = False

    def depth(self, block: Block) -> int:
        """Return the blocks of the prefix that ends with this block; 0 where that is not known."""
        return self._depth.get(block, 0)

    # For routers

    def take(self) -> tuple[list[int], list[int]]:
        """Keys stored and keys evicted since the last call; one that came and went in between counts as evicted."""
        changed, self._changed = self._changed, {}
        return [key for key, is_in in changed.items() if is_in], [key for key, is_in in changed.items() if not is_in]

    def resident(self) -> list[int]:
        """All keys that are resident."""
        return [key for key, block in self._block_of.items() if block in self._copies]

    def depths(self, keys: Iterable[int]) -> list[int]:
        """Return the blocks that the prefixes of keys fill; 0 for a key without a block."""
        block_of, depth = self._block_of, self._depth
        return [depth.get(block_of[key], 0) if key in block_of else 0 for key in keys]

    def _settle(self, request: _Request, blocks: Sequence[Block], parent: Block | None, depth: int) -> None:
        """Give a request's keys the blocks of an event that lies `depth` blocks deep, and once the blocks above it."""
        keys, depths = request.keys, request.depths
        first = bisect_right(depths, depth)
        for at in range(first, bisect_right(depths, depth + len(blocks), first)):
            self._claim(keys[at], blocks[depths[at] - depth - 1])
        if request.looked_up:
            return
        request.looked_up = True
        above, at_depth = parent, depth
        for at in range(first - 1, -1, -1):
            if self._block_of.get(keys[at]) in self._copies:
                continue
            while above is not None and at_depth > depths[at]:
                above, at_depth = self._parent.get(above), at_depth - 1
            if above is None:
                return
            self._claim(keys[at], above)

    def _claim(self, key: int, block: Block) -> None:
        before = self._block_of.get(key)
        if before == block or before in self._copies:
            return
        if before is not None:
            self._unclaim(key, before)
        elif len(self._block_of) >= self._max_keys:
            return
        self._block_of[key] = block
        self._keys_of.setdefault(block, []).append(key)
        if block in self._copies:
            self._changed[key] = True

    def _unclaim(self, key: int, block: Block) -> None:
        del self._block_of[key]
        keys = self._keys_of[block]
        keys.remove(key)
        if not keys:
            del self._keys_of[block]
