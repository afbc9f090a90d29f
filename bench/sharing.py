"""Costs and gains of sharing state: `python -m bench.sharing [--json] [replay] [cost] [newcomer] [soak]`.

- `replay`: agentic traces in virtual time through one, two and four edges with real pipelines and the real protocol
  between them (a batch every 5 ms, read 5 ms later; engines report to every edge). Hit rate, imbalance, and how often a
  session's next turn goes where its last one went; each seed beside one edge's run of it.
- `cost`: `bench.shared_cost`. Commands and bytes a request, CPU of telling and of following.
- `newcomer`: an edge joins another that has many sessions and conversations: seconds until no state is missing.
- `soak`: unique prompts and unique sessions as fast as asked for; memory of Valkey and of two routers as it goes on.

`--load` is a share of the knee; `--rates` (requests a second), `--seconds` of a slice and `--rounds` are those of
`cost`, `--states` that of `newcomer`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil

from bench.form import read_options, show
from bench.report import Table
from bench.shared_cost import cost
from bench.shared_edges import REPLICAS, Talkers, equip, in_step, router, valkey
from bench.shared_fleet import FLUSH_S, TRAVEL_S, RecordedFleet, SharedFleet
from pointsman.router.app import Router
from pointsman.router.process.logs import configure
from pointsman.simulator.experiment import Pace
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.settings import FleetSettings

EVENT_LAG_S = FleetSettings().event_lag_s
LATER_S = FLUSH_S + TRAVEL_S
"""Delay of a change on its way to another edge. For comparison, one edge receives its engines' events as much later."""

VARIANTS = ((1, 0.0), (1, LATER_S), (2, 0.0), (4, 0.0))
"""Edges, and by how much later engines are heard. The second shows what delay alone changes."""

SOAK_MARKS = 8
SOAK_RATE = 100.0
"""Requests a second of the fleet whose hours a soak stands for."""


def replay(sessions: int, seeds: int, load: float) -> list[dict[str, Any]]:
    """Each seed's trace through one edge and through several: means, and what several change in the same trace."""
    alone: dict[int, tuple[float, float]] = {}
    rows = []
    for edges, later_s in VARIANTS:
        runs, changes = [], []
        for seed in range(1, seeds + 1):
            settings = FleetSettings(replicas=REPLICAS, routers=edges, sync_s=None, event_lag_s=EVENT_LAG_S + later_s)
            trace = Pace(load=load).apply(generate(WORKLOADS["agentic"], sessions=sessions, seed=seed), settings, seed)
            fleet = (RecordedFleet if edges == 1 else SharedFleet)(trace, {"policy": "kv_cost"}, settings, seed=seed)
            summary = fleet.run()
            told = fleet.told_bytes / summary.requests
            runs.append((summary.hit_rate, summary.imbalance, summary.ttft_ms.mean, fleet.stayed, told))
            hit, imbalance = alone.setdefault(seed, (summary.hit_rate, summary.imbalance))
            changes.append((summary.hit_rate - hit, summary.imbalance / imbalance - 1))
        names = ("hit_rate", "imbalance", "ttft_ms", "stayed", "told_bytes")
        row: dict[str, Any] = dict(zip(names, map(statistics.fmean, zip(*runs, strict=True)), strict=True))
        for name, column in zip(("hit_rate_change", "imbalance_change"), zip(*changes, strict=True), strict=True):
            row[name] = [round(change, 4) for change in column]
            row[f"{name}_mean"] = statistics.fmean(column)
            row[f"{name}_error"] = statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else 0.0
        rows.append({"edges": edges, "heard_later_ms": 1000 * later_s, **row})
    return rows


async def meet(*routers: Router) -> None:
    """Return once all are in step with one another."""
    while not all(in_step(made, len(routers) - 1) for made in routers):  # noqa: ASYNC110 -- routers tell nobody
        await asyncio.sleep(0.01)


async def newcomer(states: int) -> dict[str, Any]:
    async with valkey() as (url, client), router(url) as one:
        equip(one)
        for number in range(states // 2):
            name, slot, now_s = f"s{number}", number % REPLICAS, one.clock()
            one.core.sessions.pin(name, f"r{slot}", now_s)
            one.core.kv.conversations.place(
                None, name, slot, (), tokens=4000, resident=0, prompt_bytes=16_000, now_s=now_s, in_flight=False
            )
        longest_s = 0.0
        stop = asyncio.Event()

        async def feel() -> None:
            nonlocal longest_s
            while not stop.is_set():
                before_s = time.perf_counter()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.perf_counter() - before_s)
                await asyncio.sleep(0.0005)

        started_s = time.perf_counter()
        async with router(url) as two:
            feeling = asyncio.create_task(feel())
            await meet(one, two)
            took_s = time.perf_counter() - started_s
            stop.set()
            await feeling
            assert len(two.core.sessions) == len(one.core.sessions), (len(two.core.sessions), len(one.core.sessions))
            used_mb = (await client.info("memory"))["used_memory_peak"] / 1e6
    return {"states": states, "seconds": took_s, "longest_pause_ms": 1000 * longest_s, "valkey_peak_mb": used_mb}


async def soak(rate: float, seconds: float) -> dict[str, Any]:
    marks = []
    async with valkey() as (url, client), router(url) as one, router(url) as two:
        equip(one)
        await meet(one, two)
        talkers = Talkers(one, unique=True)
        for _ in range(SOAK_MARKS):
            await talkers.run(rate, seconds / SOAK_MARKS)
            talkers.decide_s.clear()
            used_mb = (await client.info("memory"))["used_memory"] / 1e6
            rss_mb = psutil.Process().memory_info().rss / 1e6
            marks.append(
                {
                    "requests": talkers.count,
                    "valkey_mb": round(used_mb, 1),
                    "routers_rss_mb": round(rss_mb, 1),
                }
            )
    return {"rate": rate, "hours": talkers.count / SOAK_RATE / 3600, "marks": marks}


def tables(found: dict[str, Any]) -> list[Table]:
    """Tables of the parts that were found."""
    made: dict[str, Callable[[Any], Table]] = {
        "replay": _replay_table, "cost": _cost_table, "newcomer": _newcomer_table, "soak": _soak_table,
    }  # fmt: skip
    return [table(found[part]) for part, table in made.items() if part in found]


def _newcomer_table(found: dict[str, Any]) -> Table:
    columns = ["states", "until none is missing, s", "longest pause of the loop, ms", "Valkey at most, MB"]
    row = [f"{found['states']:,}", f"{found['seconds']:.1f}"]
    row += [f"{found[name]:.0f}" for name in ("longest_pause_ms", "valkey_peak_mb")]
    return Table("An edge that joins another one with many sessions and conversations", columns, [row])


def _replay_table(rows: list[dict[str, Any]]) -> Table:
    columns = ["edges", "hit rate", "change, points", "imbalance", "change", "TTFT mean, ms", "turns that stay"]
    columns.append("bytes told")
    lines = []
    for row in rows:
        later = f", engines heard {row['heard_later_ms']:.0f} ms later" if row["heard_later_ms"] else ""
        hit, imbalance = row["hit_rate_change"], row["imbalance_change"]
        lines.append(
            [
                f"{row['edges']}{later}",
                f"{row['hit_rate']:.4f}",
                f"{100 * row['hit_rate_change_mean']:+.2f} ({100 * min(hit):+.2f} to {100 * max(hit):+.2f})",
                f"{row['imbalance']:.3f}",
                f"{row['imbalance_change_mean']:+.1%} +- {row['imbalance_change_error']:.1%} "
                f"({min(imbalance):+.0%} to {max(imbalance):+.0%})",
                f"{row['ttft_ms']:.0f}",
                f"{row['stayed']:.1%}",
                f"{row['told_bytes']:.0f}",
            ]
        )
    notes = [
        f"{len(rows[0]['hit_rate_change'])} seeds; changes: what a seed's run changes beside one edge's of the same "
        "trace, mean over seeds with its standard error, and extremes",
        "bytes told: of all edges together, a request",
    ]
    return Table("The same agents through one edge and through several", columns, lines, notes)


def _cost_table(runs: list[dict[str, Any]]) -> Table:
    columns = ["at", "commands", "bytes to / from Valkey", "telling, ms", "following, ms", "idle, ms/s", "decide, us"]
    lines = [
        [
            f"{run['rate']:.0f}/s",
            f"{run['commands_per_request']:.2f}",
            f"{run['bytes_in_per_request']:.0f} / {run['bytes_out_per_request']:.0f}",
            *(
                "{:.0f} ({:.0f} to {:.0f})".format(*run[name])
                for name in ("telling_ms_per_1000", "following_ms_per_1000", "idle_ms_per_s")
            ),
            f"{run['decide_us_shared']:.0f}, alone {run['decide_us_alone']:.0f}",
        ]
        for run in runs
    ]
    notes = [
        "commands and bytes a request, of both edges and all they do; conversations of 8 to 32 keys, two more a turn",
        "telling: router CPU per 1,000 requests beyond an edge with the store in memory, in slices by turns; "
        "following: of the other edge, beyond idle; medians, least and greatest",
    ]
    return Table("What one edge tells and another follows", columns, lines, notes)


def _soak_table(found: dict[str, Any]) -> Table:
    lines = [
        [
            f"{mark['requests']:,}",
            f"{mark['requests'] / SOAK_RATE / 3600:.2f}",
            f"{mark['valkey_mb']:.0f}",
            f"{mark['routers_rss_mb']:.0f}",
        ]
        for mark in found["marks"]
    ]
    columns = ["requests", f"hours at {SOAK_RATE:.0f}/s", "Valkey, MB", "both routers, RSS in MB"]
    notes = ["every prompt and every session is one of its kind, 32 keys each; one process holds both routers"]
    return Table("Unique prompts, one after the other", columns, lines, notes)


PARTS = ("replay", "cost", "newcomer", "soak")


def main(arguments: list[str] | None = None) -> None:
    given = {"sessions": 150, "seeds": 5, "load": 0.7, "rates": [100.0, 1000.0], "seconds": 5.0, "rounds": 5}
    more = {"soak_rate": 1000.0, "soak_seconds": 120.0, "states": 20_000}
    options = read_options("sharing", __doc__, arguments, parts=PARTS, **given, **more)
    configure(level="error")  # the replicas of a bench are not there, and routers say so
    found: dict[str, Any] = {}
    if "replay" in options.parts:
        found["replay"] = replay(options.sessions, options.seeds, options.load)
    if "cost" in options.parts:
        found["cost"] = [asyncio.run(cost(rate, options.seconds, options.rounds)) for rate in options.rates]
    if "newcomer" in options.parts:
        found["newcomer"] = asyncio.run(newcomer(options.states))
    if "soak" in options.parts:
        found["soak"] = asyncio.run(soak(options.soak_rate, options.soak_seconds))
    show(options.json, found, (f"\n{table.markdown()}" for table in tables(found)))


if __name__ == "__main__":
    main()
