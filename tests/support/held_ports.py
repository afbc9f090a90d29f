"""Ports for tests, of which several processes run at once: nobody else picks a port between its pick and its use."""

from __future__ import annotations

from collections import deque

from pointsman.up.ports import PortHolder

HELD = 100
"""Calls whose ports stay held: more than one test makes, and few enough for the limit of open files."""

_holders: deque[PortHolder] = deque()


def pick_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return distinct free ports, which stay with this process for the next `HELD` calls.

    Servers that set SO_REUSEADDR can listen there; until one does, a connection is refused.
    """
    holder = PortHolder()
    _holders.append(holder)
    if len(_holders) > HELD:
        _holders.popleft().close()
    return [holder.pick(host) for _ in range(count)]
