"""`/metrics` of a large fleet, without holding up the event loop.

A page of 1,000 replicas has 50,000 samples and takes some 100 ms, in which no lookup would be answered. So a family
comes *in pieces*, metrics of one name that follow each other, and `render` lets other tasks run between two of them.
Each sample is true at its own moment; a replica that leaves while the page is made is missing from the pieces that
follow.

Samples are written as text at once, in Prometheus's text format 0.0.4: prometheus_client, which makes an object and a
dictionary for each of them, takes ten times as long.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pointsman.router.counts.histogram import Histogram
from pointsman.router.fleet.replica import Replica
from pointsman.router.fleet.replicas import ReplicaRegistry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PIECE_SAMPLES = 256
"""Samples of one piece: making them takes half a millisecond, for which a lookup waits at most."""

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

BOUND = "le"
"""Label of a histogram's bucket: its upper bound."""

NOT_FINITE = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}

Series = Iterable[tuple[Sequence[str], float | Histogram]]
"""Label values, and the value, of each time series; read while the page is made."""


@dataclass(slots=True)
class Family:
    """A family of metrics, or a piece of one."""

    name: str
    """The name as Prometheus shows it; of a counter with `_total`."""
    kind: str
    text: str
    """The HELP text."""
    labels: tuple[str, ...]
    lines: list[str] = field(default_factory=list)
    """Samples, as they stand on the page."""

    @property
    def head(self) -> str:
        """HELP and TYPE, which are said once a family."""
        text = self.text.replace("\\", r"\\").replace("\n", r"\n")
        return f"# HELP {self.name} {text}\n# TYPE {self.name} {self.kind}\n"


Collect = Callable[[], Iterator[Family]]
"""Makes families while they are asked for, and none before."""


def in_pieces(family: Family, series: Series) -> Iterator[Family]:
    """The family in pieces; one without samples when there is no series. `family` has none itself."""
    piece, labels = family, family.labels
    # In the order of the alphabet, as prometheus_client writes them.
    order = sorted(range(len(labels)), key=labels.__getitem__)
    names = [labels[at] for at in order]
    template, in_order = f"{family.name}{_braced(names)} %s\n", order == list(range(len(labels)))
    for values, value in series:
        texts = [_escaped(text) for text in values] if in_order else [_escaped(values[at]) for at in order]
        if isinstance(value, Histogram):
            _write_histogram(piece, value, names, texts)
        else:
            piece.lines.append(template % (*texts, _number(value)))
        if len(piece.lines) >= PIECE_SAMPLES:
            yield piece
            piece = Family(family.name, family.kind, family.text, labels)
    yield piece


def _braced(names: Sequence[str]) -> str:
    """Labels of a sample, with `%s` for their values."""
    return "{" + ",".join(f'{name}="%s"' for name in names) + "}" if names else ""


def _write_histogram(piece: Family, histogram: Histogram, names: Sequence[str], texts: Sequence[str]) -> None:
    labels = tuple(texts)
    at = bisect_left(names, BOUND)
    bucket = f"{piece.name}_bucket{_braced([*names[:at], BOUND, *names[at:]])}" % (*labels[:at], "\0", *labels[at:])
    begin, end = bucket.split("\0")
    piece.lines += [f"{begin}{bound}{end} {count}.0\n" for bound, count in histogram.cumulative()]
    plain = _braced(names) % labels
    piece.lines.append(f"{piece.name}_count{plain} {histogram.count}.0\n")
    piece.lines.append(f"{piece.name}_sum{plain} {_number(histogram.total)}\n")


def _number(value: float) -> str:
    if type(value) is int:
        return f"{value}.0"
    text = repr(float(value))
    return NOT_FINITE.get(text, text)


@lru_cache(maxsize=8192)
def _escaped(value: str) -> str:
    """A label's value as it stands between quotes; the ids of a fleet come again in each of its families."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def by_id(replicas: ReplicaRegistry) -> Iterator[Replica]:
    """Replicas in the order of their ids, those left out that go before it is their turn."""
    for replica in sorted(replicas, key=lambda replica: replica.id):
        if replicas.get(replica.id) is replica:
            yield replica


async def render(collect: Collect) -> bytes:
    """The page, in Prometheus's text format."""
    page: list[bytes] = []
    before = ""
    for piece in collect():
        text = "".join(piece.lines)
        page.append((text if piece.name == before else piece.head + text).encode())
        before = piece.name
        await asyncio.sleep(0)
    return b"".join(page)
