"""The ways a byte string may come out of a socket."""

from __future__ import annotations

from collections.abc import Iterator


def arrivals(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and cut in two at every place."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]
