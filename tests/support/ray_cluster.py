"""A Ray cluster that is there before the fleets that join it, with GPUs it only claims to have."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CPU_PLUGIN = Path(__file__).parent / "vllm_cpu_ray"
"""Goes on the PYTHONPATH of replicas that compute on the CPU with several workers or ranks."""

_CLUSTER = """
import sys, ray
ray.init("local", num_cpus=64, num_gpus=8, include_dashboard=False, object_store_memory=80_000_000,
         _temp_dir=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running_cluster(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Its address; the cluster ends with the block. `folder` must be short: Ray's sockets lie deep below it."""
    cluster = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **environment,
            "RAY_process_group_cleanup_enabled": "1",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        # Ray's reaper ends the process group of a driver that was killed: not ours.
        start_new_session=True,
    )
    assert cluster.stdin is not None and cluster.stdout is not None
    try:
        address = cluster.stdout.readline().strip()
        assert address, f"Ray did not start: {folder}"
        yield address
    finally:
        cluster.stdin.close()
        cluster.wait(30)
        cluster.stdout.close()
