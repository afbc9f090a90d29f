"""A Ray cluster that is there before the fleets that join it, with GPUs it only claims to have."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

CPU_PLUGIN = Path(__file__).parent / "vllm_cpu_ray"
"""Goes on the PYTHONPATH of replicas that compute on the CPU with several workers or ranks."""

_CLUSTER = """
import sys, ray
ray.init("local", num_cpus=64, num_gpus=8, include_dashboard=False, object_store_memory=80_000_000,
         _temp_dir=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


_OWN_ENV = {
    "RAY_process_group_cleanup_enabled": "1",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_MARK = "POINTSMAN_TEST_NODE"
"""In the environment of every process of one node, by which they are found."""

START_TRIES = 3
"""Ray gives a node 30 s to come up and says no more, whatever else the machine does."""


@contextlib.contextmanager
def running_cluster(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Its address; the cluster ends with the block. `folder` must be short: Ray's sockets lie deep below it."""
    for left in reversed(range(START_TRIES)):
        cluster = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, **_OWN_ENV},
            # Ray's reaper ends the process group of a driver that was killed: not ours.
            start_new_session=True,
        )
        assert cluster.stdin is not None and cluster.stdout is not None
        try:
            address = cluster.stdout.readline().strip()
            if address:
                yield address
                return
            assert left, f"Ray did not start: {folder}"
        finally:
            cluster.stdin.close()
            cluster.wait(120)
            cluster.stdout.close()


class Node:
    """One more node of a cluster, on this machine: a raylet that nobody's death ends, as on a machine of its own."""

    def __init__(self, address: str, environment: dict[str, str], *, cpus: int) -> None:
        self._mark = uuid.uuid4().hex
        ray = Path(sys.executable).with_name("ray")
        for left in reversed(range(START_TRIES)):
            started = subprocess.run(
                [str(ray), "start", f"--address={address}", f"--num-cpus={cpus}", "--object-store-memory=80000000"],
                env={**environment, **_OWN_ENV, _MARK: self._mark},
                capture_output=True,
                text=True,
                start_new_session=True,
                check=False,
            )
            if started.returncode == 0:
                break
            self.end()
            assert left, started.stdout[-1000:] + started.stderr[-2000:]

    @property
    def raylet(self) -> psutil.Process:
        """The process that starts the node's workers, and ends them."""
        (raylet,) = [process for process in self._processes() if process.name() == "raylet"]
        return raylet

    def end(self) -> None:
        """End whatever of the node is left, workers and engines too."""
        while processes := self._processes():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found


@contextlib.contextmanager
def joined_node(address: str, environment: dict[str, str], *, cpus: int) -> Iterator[Node]:
    """A node that joined the cluster at `address`; ended with the block."""
    node = Node(address, environment, cpus=cpus)
    try:
        yield node
    finally:
        node.end()
