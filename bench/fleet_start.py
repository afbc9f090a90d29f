"""Start of a fleet of real vLLM on this machine, in seconds and memory: `python -m bench.fleet_start [1 2 4]`.

For each size a driver starts with a Ray cluster of its own and the tiny model on the CPU, and is ended again. Reported:
seconds from starting the driver to the first replica that has given a token and to the last, and memory of one replica
(its actor and engine; PSS shares what processes share) and of everything else (driver and Ray).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil

from bench.form import read_options

_ARGS = ["--max-model-len=1024", "--kv-cache-memory-bytes=16M"]


def start(replicas: int) -> dict[str, Any]:
    """One fleet of so many replicas, from nothing to nothing."""
    words = [
        "--model",
        "tiny",
        "--replicas",
        str(replicas),
        "--set",
        f"args={json.dumps(_ARGS)}",
        "--set",
        "device=cpu",
    ]
    began_s = time.monotonic()
    driver = subprocess.Popen(
        [sys.executable, "-m", "pointsman", "engine", "vllm", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    ready_s: list[float] = []
    ports: list[int] = []
    try:
        for line in driver.stdout:
            if line.startswith("ready: "):
                ready_s.append(time.monotonic() - began_s)
                ports.append(int(line.split()[1].rpartition(":")[2]))
            if len(ready_s) == replicas:
                break
        memory = _memory(driver.pid, ports)
    finally:
        driver.terminate()
        driver.stdout.read()
        driver.wait(60)
    return {"replicas": replicas, "first_s": round(min(ready_s), 1), "all_s": round(max(ready_s), 1), **memory}


def _memory(driver: int, ports: list[int]) -> dict[str, int]:
    connections: list[Any] = psutil.net_connections("tcp")
    listening = {c.laddr.port: c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.pid}
    replicas: list[list[psutil.Process]] = []
    for port in ports:
        actor = psutil.Process(listening[port])
        replicas.append([actor, *actor.children(recursive=True)])
    whole = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    mine = {process.pid for family in replicas for process in family}
    rss = [sum(process.memory_info().rss for process in family) for family in replicas]
    pss = [sum(process.memory_full_info().pss for process in family) for family in replicas]
    rest = sum(process.memory_full_info().pss for process in whole if process.pid not in mine)
    return {
        "replica_rss_mb": max(rss) >> 20,
        "replica_pss_mb": max(pss) >> 20,
        "driver_and_ray_pss_mb": rest >> 20,
    }


def main(arguments: list[str] | None = None) -> None:
    for replicas in read_options("fleet_start", __doc__, arguments, replicas=(1, 2, 4)).replicas:
        print(json.dumps(start(replicas)), flush=True)


if __name__ == "__main__":
    main()
