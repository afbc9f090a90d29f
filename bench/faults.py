"""The fault matrix: failed requests, as clients see them, of replicas that fail behind green health checks.

One edge by `pointsman up` over four simulated replicas, and for each policy, each fault and each kind of load one
*cell*: the fault is switched on, load runs for some seconds, and every answer is judged by the client. Closed loop: so
many clients, each sends its next request when it has its answer; a replica that fails at once is always idle. Open
loop: requests at a fixed rate whose clients give up after a while.

A second table has one replica that is slow instead: its share of the requests before and while it is slow. A third has
how a replica that is well again comes back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.edge import PATH
from bench.ground import Ground, ground
from bench.http import Request, chat_body
from bench.load import ClosedLoop, Exchange, Expected, OpenLoop, Outcome
from bench.peers import say
from bench.report import Table

POLICIES = (
    "kv_cost", "least_load", "session_affinity", "prefix_affinity", "consistent_hash", "weighted", "power_of_two",
    "round_robin", "random",
)  # fmt: skip
MANY = 1_000_000_000
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "500": {"error_status": 500, "error_count": MANY},
    "503": {"error_status": 503, "error_count": MANY},
    "cut after a token": {"reset_after_tokens": 1},
    "reset": {"reset_before_response": MANY},
    "hang": {"hang": True},
}
"""Bodies of `POST /sim/fault`, by the name of the fault."""

WELL: Mapping[str, Any] = {
    "error_status": 0, "error_count": 0, "reset_after_tokens": 0, "reset_before_response": 0, "hang": False,
    "slowness": 1.0,
}  # fmt: skip
SLOW = {"slowness": 10.0}
BACK_WITHIN_S = 90.0
SETTLE_S = 2.0
"""After each cell: streams of the one before have ended."""


@dataclass(frozen=True)
class FaultOptions:
    """The load, the fleet, and which cells are played."""

    policies: tuple[str, ...] = POLICIES
    replicas: int = 4
    clients: int = 32
    per_s: float = 60.0
    patience_s: float = 4.0
    seconds: float = 15.0
    tokens: int = 20
    token_interval_ms: float = 20.0
    slow_s: float = 30.0
    body_bytes: int = 2048

    @classmethod
    def quick(cls) -> FaultOptions:
        return cls(policies=("kv_cost", "consistent_hash"), seconds=5.0, slow_s=12.0)


@dataclass
class Cell:
    """Answers of one cell, as clients saw them."""

    policy: str
    fault: str
    load: str
    bad: int
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    """Good answers by replica."""

    def __call__(self, exchange: Exchange) -> None:
        self.requests += 1
        if exchange.outcome is Outcome.OK:
            self.served[exchange.replica] += 1
        else:
            self.failed[f"{exchange.status}" if exchange.outcome is Outcome.STATUS else str(exchange.outcome)] += 1

    def figures(self) -> dict[str, Any]:
        """The cell as numbers."""
        return {**vars(self), "failed": dict(self.failed), "served": dict(self.served)}

    @property
    def failed_share(self) -> float:
        return self.failed.total() / self.requests if self.requests else 0.0


class Fleet:
    """The replicas of one edge, and the switches of their faults."""

    def __init__(self, here: Ground, urls: Mapping[str, str]) -> None:
        self.here = here
        self.urls = urls

    @property
    def names(self) -> list[str]:
        return sorted(self.urls)

    async def switch(self, replica: str, faults: Mapping[str, Any]) -> None:
        """Sets switches of one replica."""
        (await self.here.client.post(f"{self.urls[replica]}/sim/fault", json=dict(faults))).raise_for_status()

    async def heal(self) -> None:
        """All replicas are well and without a record: they are removed, and their next heartbeat registers them."""
        for replica in self.names:
            await self.switch(replica, WELL)
        await asyncio.sleep(SETTLE_S)
        for replica in self.names:
            (await self.here.admin.delete(f"/v1/replicas/{replica}")).raise_for_status()

        async def all_up() -> bool:
            return await self.here.states() == dict.fromkeys(self.names, "up")

        await self.here.until("all replicas are up", all_up, BACK_WITHIN_S)

    async def use(self, policy: str) -> None:
        """Puts a policy live, with its defaults."""
        (await self.here.admin.put("/v1/policy", json={"policy": policy})).raise_for_status()


def requests(options: FaultOptions, prefix: str) -> Iterator[Request]:
    """Streamed chats of conversations of five turns each, all different."""
    for number in itertools.count():
        body = chat_body(options.body_bytes, max_tokens=options.tokens, stream=True, ignore_eos=True)
        yield Request.post(PATH, body, session=f"{prefix}-{number // 5}")


async def play(port: int, options: FaultOptions, cell: Cell, seconds: float) -> Cell:
    """Load of the cell's kind for so long."""
    stream = requests(options, f"{cell.policy}-{cell.fault}-{cell.load}-{time.monotonic_ns()}")
    how: dict[str, Any] = {"read_names": True, "patience_s": options.patience_s}
    load: ClosedLoop | OpenLoop
    if cell.load == "closed":
        load = ClosedLoop(port, stream, Expected(), cell, connections=options.clients, **how)
    else:
        load = OpenLoop(port, stream, Expected(), cell, per_s=options.per_s, **how)
    load.start()
    await asyncio.sleep(seconds)
    await load.stop(options.patience_s + 1)
    return cell


async def run_faults(options: FaultOptions) -> tuple[list[Table], dict[str, Any]]:
    """All cells on one edge. Raises PeerError."""
    engine = {"token_interval_ms": options.token_interval_ms, "faults": True}
    async with ground(replicas=options.replicas, engine=engine) as here:
        listed = (await here.admin.get("/v1/replicas")).json()["replicas"]
        fleet = Fleet(here, {replica["id"]: replica["url"] for replica in listed})
        cells = await fault_cells(fleet, here.side.port, options)
        slow = await slow_cells(fleet, here.side.port, options)
        back = await recoveries(fleet, here.side.port, options)
    tables = [failed_table(cells, options), slow_table(slow, options), back_table(back, options)]
    figures = {
        "options": asdict(options),
        "cells": [cell.figures() for cell in cells],
        "slow": {policy: [cell.figures() for cell in pair] for policy, pair in slow.items()},
        "back_s": back,
    }
    return tables, figures


async def fault_cells(fleet: Fleet, port: int, options: FaultOptions) -> list[Cell]:
    """Every policy with one bad replica in every way, and with two and all replicas that answer 500."""
    cells = []
    for policy in options.policies:
        await fleet.use(policy)
        kinds = [(fault, 1) for fault in FAULTS] + [("500", 2), ("500", options.replicas)]
        for (fault, bad), load in itertools.product(kinds, ("closed", "open")):
            say(f"faults: {policy}, {bad} of {options.replicas}: {fault}, {load} loop")
            await fleet.heal()
            for replica in fleet.names[-bad:]:
                await fleet.switch(replica, FAULTS[fault])
            cells.append(await play(port, options, Cell(policy, fault, load, bad), options.seconds))
    await fleet.heal()
    return cells


async def slow_cells(fleet: Fleet, port: int, options: FaultOptions) -> dict[str, tuple[Cell, Cell]]:
    """By policy, load on a fleet that is well, and the second half of the same with one slow replica."""
    found = {}
    for policy in options.policies:
        await fleet.use(policy)
        say(f"faults: {policy}, one of {options.replicas} ten times slower")
        await fleet.heal()
        before = await play(port, options, Cell(policy, "none", "open", 0), options.slow_s / 3)
        await fleet.switch(fleet.names[-1], SLOW)
        await play(port, options, Cell(policy, "slow", "open", 1), options.slow_s)
        found[policy] = (before, await play(port, options, Cell(policy, "slow", "open", 1), options.slow_s))
    await fleet.heal()
    return found


async def recoveries(fleet: Fleet, port: int, options: FaultOptions) -> dict[str, float]:
    """By fault, seconds from the moment a failing replica is well until it is back. Raises PeerError."""
    found = {}
    await fleet.use(options.policies[0])
    for fault in FAULTS:
        say(f"faults: back after {fault}")
        await fleet.heal()
        replica = fleet.names[-1]
        await fleet.switch(replica, FAULTS[fault])
        cell = Cell(options.policies[0], fault, "open", 1)
        load = asyncio.create_task(play(port, options, cell, options.seconds + BACK_WITHIN_S))
        await asyncio.sleep(options.seconds)
        await fleet.switch(replica, WELL)
        well_s = time.perf_counter()
        found[fault] = await _answers_again(fleet, replica, cell, well_s)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    return found


async def _answers_again(fleet: Fleet, replica: str, cell: Cell, since_s: float) -> float:
    before = cell.served[replica]

    async def back() -> bool:
        return cell.served[replica] > before and (await fleet.here.states())[replica] == "up"

    return await fleet.here.until(f"{replica} is back after {cell.fault}", back, BACK_WITHIN_S) - since_s


# Tables


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def failed_table(cells: Sequence[Cell], options: FaultOptions) -> Table:
    """Failed requests by policy, one column for each fault and load."""
    columns = list(dict.fromkeys((cell.bad, cell.fault, cell.load) for cell in cells))
    shares = {(cell.policy, cell.bad, cell.fault, cell.load): cell.failed_share for cell in cells}
    rows = [
        [policy, *(percent(shares[policy, *column]) for column in columns)]
        for policy in dict.fromkeys(cell.policy for cell in cells)
    ]
    return Table(
        "Failing replicas behind green health checks: failed requests",
        ["policy", *(f"{bad} of {options.replicas}: {fault}, {load}" for bad, fault, load in columns)],
        rows,
        [
            f"{options.seconds:g} s a cell, {options.replicas} simulated replicas, streams of {options.tokens} tokens "
            f"at {options.token_interval_ms:g} ms; closed: {options.clients} clients; open: {options.per_s:g} requests "
            f"a second; clients give up after {options.patience_s:g} s and never retry",
            f"fair share of one bad replica: {percent(1 / options.replicas)}",
        ],
    )


def slow_table(found: Mapping[str, tuple[Cell, Cell]], options: FaultOptions) -> Table:
    slow = f"sim-{options.replicas}"
    rows = []
    for policy, cells in found.items():
        shares = [cell.served[slow] / max(1, cell.served.total()) for cell in cells]
        rows.append([policy, *map(percent, shares), percent(cells[1].failed_share)])
    return Table(
        "A replica ten times slower than the others: its share of the requests",
        ["policy", "before", "slow", "given up while slow"],
        rows,
        [
            f"before: {options.slow_s / 3:g} s on a fleet that is well; slow: the {options.slow_s:g} s that begin "
            f"{options.slow_s:g} s after the replica became slow"
        ],
    )


def back_table(found: Mapping[str, float], options: FaultOptions) -> Table:
    rows = [[fault, f"{seconds:.2f}"] for fault, seconds in found.items()]
    return Table(
        f"A replica that is well again after {options.seconds:g} s of failing, {options.policies[0]}",
        ["fault", "seconds until it answers again and is `up`"],
        rows,
    )
