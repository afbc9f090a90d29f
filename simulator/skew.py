"""Tenants of sessions whose trace does not say: by shares, or by the rates of clients as public traces have them.

`assign` gives sessions to tenants at random by share and leaves their times alone. `by_clients` also gives them times:
each client of a table of rates sends in its own bursts. Both keep what the sessions say.
"""

from __future__ import annotations

import csv
import heapq
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.policies.request import Priority
from pointsman.router.tenancy.records import TENANT_PATTERN
from pointsman.simulator.errors import ExperimentError, TraceError
from pointsman.simulator.trace import Trace

MAX_TENANTS = 10_000

ZIPF_EXPONENT = 1.1
"""Exponent of shares `zipf:N`: the first of 20 tenants then has 31 %, the last 1 %."""

SHARES = "zipf:N, zipf:N:EXPONENT or NAME=SHARE[:PRIORITY],..."


class TenantShare(msgspec.Struct, frozen=True):
    """One tenant's part of the sessions."""

    name: str
    share: float
    """Relative to the others."""
    priority: str = ""
    """Class that its requests name; empty: none."""


def parse_shares(text: str, flag: str = "--tenant-shares") -> tuple[TenantShare, ...]:
    """Shares as they are written: `zipf:20`, `zipf:20:1.3`, or `acme=6,beta=3:high,night=1:batch`.

    flag: option that has them. Raises ExperimentError.
    """
    try:
        if text.startswith("zipf:"):
            number, _, exponent = text.removeprefix("zipf:").partition(":")
            return zipf(int(number), float(exponent or ZIPF_EXPONENT))
        shares = tuple(_share(part) for part in text.split(","))
    except ValueError:
        raise ExperimentError(flag, text, SHARES) from None
    if len({share.name for share in shares}) < len(shares):
        raise ExperimentError(flag, text, "each tenant once")
    return shares


def _share(text: str) -> TenantShare:
    name, _, value = text.strip().partition("=")
    share, _, priority = value.partition(":")
    if re.fullmatch(TENANT_PATTERN, name) is None or (priority and Priority.of(priority) is None):
        raise ValueError(text)
    if not 0 < float(share) < math.inf:
        raise ValueError(text)
    return TenantShare(name, float(share), priority)


def zipf(number: int, exponent: float = ZIPF_EXPONENT) -> tuple[TenantShare, ...]:
    """Tenants t1, t2, ... of which the n-th has a share of n to the power of minus the exponent.

    Raises ValueError for a number that is not 1 to `MAX_TENANTS`.
    """
    if not 1 <= number <= MAX_TENANTS or not 0 <= exponent <= 10:
        raise ValueError(number)
    return tuple(TenantShare(f"t{rank}", rank**-exponent) for rank in range(1, number + 1))


def assign(trace: Trace, shares: Sequence[TenantShare], seed: int) -> Trace:
    """The trace whose sessions belong to tenants at random, by their shares."""
    dice = random.Random(f"{seed} tenants")
    drawn = dice.choices(shares, [share.share for share in shares], k=len(trace.sessions))
    sessions = zip(trace.sessions, drawn, strict=True)
    owned = (replace(session, tenant=owner.name, priority=owner.priority) for session, owner in sessions)
    return replace(trace, sessions=tuple(owned))


Positive = Annotated[float, Meta(gt=0.0)]


class ClientRate(msgspec.Struct, frozen=True):
    """Requests of one client in one window of time, as ServeGen publishes them."""

    client: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    window_start_s: Annotated[float, Meta(ge=0.0)]
    rate_rps: Annotated[float, Meta(ge=0.0)]
    arrival: Annotated[str, Meta(pattern="^(Gamma|Weibull)$")]
    """Distribution of the time between two requests."""
    p1: Positive
    """Shape of the distribution."""
    p2: Positive
    """Scale of the distribution, in seconds."""

    def gap_s(self, dice: random.Random) -> float:
        """Seconds until the client's next request."""
        return dice.gammavariate(self.p1, self.p2) if self.arrival == "Gamma" else dice.weibullvariate(self.p2, self.p1)


def read_client_rates(path: Path, start_s: float | None = None) -> list[ClientRate]:
    """The clients of one window out of a table with the columns of `ClientRate`, and others. Raises TraceError.

    start_s: begin of the window; None for the window with the most requests.
    """
    windows: dict[float, list[ClientRate]] = {}
    number = 1
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                number += 1
                rate = msgspec.convert(row, ClientRate, strict=False)
                windows.setdefault(rate.window_start_s, []).append(rate)
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    except msgspec.MsgspecError as error:
        raise TraceError(f"{path}: line {number}: {error}") from error
    if not windows:
        raise TraceError(f"{path}: no client in it")
    if start_s is None:
        start_s = max(windows, key=lambda at_s: sum(rate.rate_rps for rate in windows[at_s]))
    if start_s not in windows:
        raise TraceError(f"{path}: no window begins at {start_s:g} s; the first do at {_few(windows)}")
    found = [rate for rate in windows[start_s] if rate.rate_rps > 0]
    if not found:
        raise TraceError(f"{path}: no client sends anything in the window at {start_s:g} s")
    return found


def _few(windows: dict[float, list[ClientRate]]) -> str:
    return ", ".join(f"{at_s:g}" for at_s in sorted(windows)[:4])


def by_clients(trace: Trace, rates: Sequence[ClientRate], seed: int) -> Trace:
    """The trace whose sessions begin when clients send something, in the order of both; each client is a tenant."""
    arrivals = heapq.merge(*(_arrivals(rate, random.Random(f"{seed} client {rate.client}")) for rate in rates))
    sessions = zip(trace.sessions, islice(arrivals, len(trace.sessions)), strict=True)
    owned = (replace(session, start_s=at_s, tenant=client) for session, (at_s, client) in sessions)
    return replace(trace, sessions=tuple(owned))


def _arrivals(rate: ClientRate, dice: random.Random) -> Iterator[tuple[float, str]]:
    now_s = 0.0
    while True:
        now_s += rate.gap_s(dice)
        yield now_s, rate.client
