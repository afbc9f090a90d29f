"""Drivers of one fleet on a real Ray cluster, one after another, with replicas that serve nothing and start at once.

What vLLM makes of it is in `test_living_pools.py` and `test_parallel_pools.py`; here is what Ray does.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray_cluster import running_cluster
from vllm_fleet import FleetProcess, real_vllm

pytestmark = real_vllm(timeout_s=900)

ROOT = Path(__file__).parents[3]
WAIT_S = 120.0
POOLS: list[dict[str, Any]] = [
    {"name": "a", "model": "tiny", "replicas": 2, "device": "cpu"},
    {"name": "moe", "model": "tiny", "data_parallel_size": 2, "device": "cpu"},
    {"name": "tp", "model": "tiny", "tensor_parallel_size": 2, "device": "cpu"},
]

_LEFT = """
import json, ray, sys
ray.init(sys.argv[1], namespace="pointsman", log_to_driver=False, logging_level="ERROR")
groups = [group["name"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
print(json.dumps([ray.util.list_named_actors(), groups]))
"""

Start = Callable[..., FleetProcess]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str], Start]]:
    """Address, environment, and a function that starts one more driver of the fleet."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with (
        tempfile.TemporaryDirectory(prefix="pm-", ignore_cleanup_errors=True) as name,
        running_cluster(Path(name) / "ray", environment) as address,
        ExitStack() as started,
    ):

        def start(pools: list[dict[str, Any]] = POOLS) -> FleetProcess:
            settings = json.dumps({"ray_address": address, "pools": pools, "drain_s": 1.0})
            with (Path(name) / "errors").open("a") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-c", "import sys, stub_replica; stub_replica.run_driver(sys.argv[1])", settings],
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    text=True,
                    start_new_session=True,
                )
            driver = FleetProcess(process, Path(name) / "errors")
            started.callback(driver.wait, WAIT_S)
            started.callback(process.kill)
            return driver

        yield address, environment, start


def control_of(driver: FleetProcess) -> str:
    line: str = driver.lines.wait(lambda line: line.startswith("control: "), WAIT_S)
    return line.removeprefix("control: ")


def process_of(driver: FleetProcess, replica: str) -> psutil.Process:
    """A stub's URL ends in its process id."""
    return psutil.Process(int(driver.wait_ready(replica, WAIT_S).rpartition("/")[2]))


def test_a_fleet_outlives_its_drivers(cluster: tuple[str, dict[str, str], Start]) -> None:
    """Refused beside the first, taken over after its death with what was ordered, left politely, ended for good."""
    address, environment, start = cluster
    first = start()
    ids = ("a-1", "a-2", "moe-1.0", "moe-1.1", "tp-1")
    for replica in ids:
        process_of(first, replica)
    assert httpx.post(f"{control_of(first)}/v1/pools/a/scale", json={"replicas": 3}, timeout=WAIT_S).status_code == 202
    processes = {replica: process_of(first, replica) for replica in (*ids, "a-3")}

    beside = start()
    assert beside.wait(WAIT_S) == 1
    assert "error: fleet 'vllm' is run by another driver" in beside.errors

    first.process.kill()
    first.wait(WAIT_S)
    second = start()
    for replica, process in processes.items():  # The same processes, the scaled one among them.
        assert process_of(second, replica) == process
    assert sum(line.endswith(" adopted") for line in second.lines.all()) == 5

    said = len(second.lines.all())
    processes["moe-1.1"].kill()
    second.lines.wait(lambda line: line.startswith("moe-1 died: moe-1.1"), WAIT_S, since=said)
    assert second.wait_ready("moe-1.0", WAIT_S, since=said)
    assert not processes["moe-1.0"].is_running()

    second.process.send_signal(signal.SIGUSR1)
    assert second.wait(WAIT_S) == 0
    third = start([{**POOLS[0], "env": {"CHANGED": "1"}}])
    for replica in ("moe-1", "tp-1"):
        third.lines.wait(lambda line, id=replica: line == f"{id} ended: of no pool", WAIT_S)
    third.lines.wait(lambda line: line == "a-3 stopped", WAIT_S)  # Rolled: back to the file's two.
    third.process.terminate()
    assert third.wait(WAIT_S) == 0
    _, alive = psutil.wait_procs([*processes.values()], WAIT_S)
    assert not alive
    left = subprocess.run(
        [sys.executable, "-c", _LEFT, address], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(left.stdout) == [[], []]
