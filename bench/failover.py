"""Requests that fail when a part fails, leaves or joins.

One edge by `pointsman up` over simulated replicas of a fixed pace, under three loads at once: streams in a closed loop;
whole answers at a steady rate, so that some requests stand unanswered at any moment; and streams of one token at a
steady rate, whose first byte comes as soon as edge and replica let it. Events come one after another, each after quiet
time with the edge whole; what is reported of one is all that ended in its window:

- streams that were being answered by the replica that was killed are necessarily cut, and counted apart;
- any other cut answer, any request that got no answer, and any answer that is not 200 is a *failed* request;
- time to first byte of the one-token streams of the two seconds from the event on, beside those of the quiet time;
- how long until things were whole again, as each event defines it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.budgets import bound, verdict
from bench.ground import POLL_S, ground
from bench.peers import Spawned
from bench.report import Table
from bench.scene import AROUND_S, EventResult, FailoverOptions, Scene, routed_again_after_s
from pointsman.haproxy.errors import HAProxyUnavailable
from pointsman.haproxy.runtime_api import MasterAPI

VICTIM, JOINER = "sim-1", "sim-extra"
RELOAD_S = 20.0
LOOK_AGAIN_S = 1.0
"""HAProxy looks for a router that was down five times a second; by then it asks again."""


async def kill_router(scene: Scene, at_s: float) -> dict[str, float]:
    os.kill(scene.here.pid(" router --config"), signal.SIGKILL)
    await asyncio.sleep(POLL_S)
    ready_s = await scene.here.until("the router", scene.whole)
    await asyncio.sleep(LOOK_AGAIN_S)
    return {"router ready": ready_s - at_s, "deciding again": routed_again_after_s(scene.seen, at_s)}


async def kill_replica(scene: Scene, at_s: float) -> dict[str, float]:
    os.kill(scene.here.pid(f"--id {VICTIM} "), signal.SIGKILL)

    async def out() -> bool:
        return (await scene.here.states()).get(VICTIM) != "up"

    out_s = await scene.here.until(f"{VICTIM} out of rotation", out)
    back_s = await scene.first_answer_by(VICTIM, at_s)
    await scene.here.until("the edge", scene.whole)
    return {"out of rotation": out_s - at_s, "restarted and serving": back_s - at_s}


async def reload_haproxy(scene: Scene, at_s: float) -> dict[str, float]:
    assert scene.here.side.run_dir is not None
    master = MasterAPI(str(scene.here.side.run_dir / "master.sock"), timeout_s=RELOAD_S)
    before = await master.workers()
    os.kill(scene.here.side.processes.root, signal.SIGHUP)

    async def reloaded() -> bool:
        try:
            return (await master.workers())[:1] != before[:1]
        except HAProxyUnavailable:  # the master process executes itself anew
            return False

    reloaded_s = await scene.here.until("a new HAProxy worker", reloaded)
    await scene.here.until("the edge", scene.whole)
    await asyncio.sleep(LOOK_AGAIN_S)
    return {"reloaded": reloaded_s - at_s, "deciding again": routed_again_after_s(scene.seen, at_s)}


class Joiner:
    """One more replica, started beside those of the edge."""

    def __init__(self, options: FailoverOptions, admin_url: str, log_dir: Path) -> None:
        self._options = options
        self._admin_url = admin_url
        self._log_dir = log_dir
        self._process: Spawned | None = None

    async def scale_up(self, scene: Scene, at_s: float) -> dict[str, float]:
        argv = [sys.executable, "-m", "pointsman", "engine", "sim", "--id", JOINER, "--register", self._admin_url]
        argv += ["--set", f"token_interval_ms={self._options.token_interval_ms}", "--set", "keep_alive_s=75"]
        self._process = Spawned(JOINER, argv, self._log_dir)
        await self._process.line()
        listening_s = time.perf_counter()
        served_s = await scene.first_answer_by(JOINER, at_s)
        return {"process listening": listening_s - at_s, "first served after that": served_s - listening_s}

    async def drain_and_remove(self, scene: Scene, at_s: float) -> dict[str, float]:
        assert self._process is not None
        (await scene.here.admin.post(f"/v1/replicas/{JOINER}/drain")).raise_for_status()

        async def drained() -> bool:
            listed = (await scene.here.admin.get("/v1/replicas")).json()["replicas"]
            return [one["in_flight"] for one in listed if one["id"] == JOINER] == [0]

        drained_s = await scene.here.until(f"{JOINER} drained", drained)
        await self._process.stop()

        async def gone() -> bool:
            return JOINER not in await scene.here.states()

        gone_s = await scene.here.until(f"{JOINER} removed", gone)
        last_s = max((x.sent_s for x in scene.seen if x.replica == JOINER), default=at_s)
        return {
            "last request placed on it": max(0.0, last_s - at_s),
            "drained": drained_s - at_s,
            "stopped and removed": gone_s - at_s,
        }

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()


async def run_failover(options: FailoverOptions) -> tuple[list[Table], dict[str, Any]]:
    """All events on one edge, whole again before each. Raises PeerError."""
    engine = {"token_interval_ms": options.token_interval_ms}
    async with ground(replicas=options.replicas, engine=engine) as here:
        scene = Scene(here, options)
        joiner = Joiner(options, here.side.admin_url, here.folder)
        scene.start()
        # Let the streams fall out of step before anything is called quiet.
        await asyncio.sleep(options.stream_tokens * options.token_interval_ms / 1000)
        try:
            results = [
                await scene.event("router killed (SIGKILL)", kill_router),
                await scene.event("replica killed (SIGKILL)", kill_replica, killed=VICTIM),
                await scene.event("one replica more", joiner.scale_up),
                await scene.event("one replica drained, removed", joiner.drain_and_remove),
                await scene.event("HAProxy reloaded", reload_haproxy),
            ]
            await scene.stop()
        finally:
            await joiner.stop()
    return [failover_table(results, options)], {
        "options": asdict(options),
        "events": [asdict(result) for result in results],
    }


def failover_table(results: list[EventResult], options: FailoverOptions) -> Table:
    rows = []
    for result in results:
        total = sum(result.failed.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.failed.items()))
        quiet, around = result.first_byte_ms["quiet"], result.first_byte_ms["around"]
        rows.append(
            [
                result.event,
                str(result.unanswered),
                str(result.cut_with_their_replica),
                f"{total} ({kinds})" if total else "0",
                bound("failover.failed"),
                verdict("failover.failed", total),
                f"{result.fail_open} ({result.fail_open_counter:.0f})",
                f"{quiet[0]:.1f} / {quiet[1]:.1f}",
                f"{around[0]:.1f} / {around[1]:.1f}",
                "; ".join(f"{what} {seconds:.2f}" for what, seconds in result.whole_after_s.items()),
            ]
        )
    columns = ["event", "unanswered then", "cut with their replica", "failed", "budget", "verdict", "fail-open"]
    columns += ["first byte, quiet, ms", "from the event on", "seconds until"]
    return Table(
        "Failover, as clients see it",
        columns,
        rows,
        [
            f"{options.streams} streams of {options.stream_tokens} tokens at {options.token_interval_ms:g} ms in a "
            f"closed loop; each second {options.steady_per_s:g} whole answers of {options.whole_tokens} tokens and as "
            f"many streams of one token; {options.replicas} simulated replicas, `pointsman up` with its defaults",
            "unanswered then: requests that had been sent and not been answered when the event came",
            "fail-open: answers HAProxy placed alone, by their header, and in brackets by the router's counter",
            f"first byte: p50 / p99 of the streams of one token, those of the {AROUND_S:g} s from the event on beside "
            "those of the quiet time before",
        ],
    )
