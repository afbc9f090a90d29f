"""What a replica is told, and what it reserves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pointsman.engine.vllm.fleet import cpu
from pointsman.engine.vllm.fleet.config import Device, FleetConfig, decode_fleet
from pointsman.engine.vllm.fleet.spec import bundles_of, group_argv, ranks_of, revision_of


def fleet_of(**pool: Any) -> FleetConfig:
    """A fleet of one pool `p`."""
    return decode_fleet({"pools": [{"name": "p", "model": "m", **pool}]})


def ranks(device: Device, model_path: str = "m", **pool: Any) -> tuple[Any, ...]:
    fleet = fleet_of(**pool)
    return ranks_of(fleet, fleet.pools[0], 1, device, model_path, 1)


def test_cpu_settings_come_first_so_that_the_users_own_win() -> None:
    """vLLM takes the last of two equal options: the user's come after ours, what Pointsman owns after both."""
    (rank,) = ranks(Device.CPU, "/models/m", args=["--block-size=64"], env={"OMP_NUM_THREADS": "8"})
    assert rank.spec.argv[: len(cpu.ARGS)] == cpu.ARGS
    assert rank.spec.argv[len(cpu.ARGS) :] == ("--block-size=64", "--model=/models/m", "--served-model-name=m")
    assert rank.env["OMP_NUM_THREADS"] == "8"
    assert rank.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_replica_on_a_gpu_gets_no_cpu_settings() -> None:
    """GPU or CPU is a matter of configuration: nothing of the CPU's settings reaches a GPU."""
    (rank,) = ranks(Device.GPU, served_name="big")
    assert rank.spec.argv == ("--model=m", "--served-model-name=big")
    assert not cpu.ENV.keys() & rank.env.keys()


def test_a_model_in_a_folder_needs_no_hub(tmp_path: Path) -> None:
    """The hub is switched off for a folder, and left alone for a name."""
    assert ranks(Device.GPU, str(tmp_path))[0].env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in ranks(Device.GPU, "org/model")[0].env


def test_ids_fit_haproxys_server_names() -> None:
    """The longest name with the highest numbers has 64 characters at most."""
    fleet = fleet_of(name="n" * 52, replicas=256, data_parallel_size=2)
    last = ranks_of(fleet, fleet.pools[0], 256, Device.CPU, "m", 1)[-1]
    assert last.spec.id.endswith("n-256.1")
    assert len(last.spec.id) <= 64


def test_adapters_are_passed_through() -> None:
    """vLLM loads them when the replica starts, and the registration can name them."""
    (rank,) = ranks(Device.GPU, loras=[{"name": "fr", "path": "/l/fr"}, {"name": "de", "path": "/l/de"}])
    assert rank.spec.argv[:4] == ("--enable-lora", "--lora-modules", "fr=/l/fr", "de=/l/de")
    assert rank.spec.loras == ("fr", "de")


@pytest.mark.parametrize(
    ("device", "pool", "bundles"),
    [
        pytest.param(Device.CPU, {}, ({"CPU": 1.0},), id="CPU"),
        pytest.param(Device.GPU, {"resources": {"big": 1.0}}, ({"CPU": 1.0, "big": 1.0, "GPU": 1.0},), id="one GPU"),
        pytest.param(
            Device.GPU, {"tensor_parallel_size": 2}, ({"CPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}), id="a worker a bundle"
        ),
        pytest.param(
            Device.GPU,
            {"tensor_parallel_size": 4, "args": ["--distributed-executor-backend=mp"]},
            ({"CPU": 1.0, "GPU": 4.0},),
            id="all workers on one node",
        ),
    ],
)
def test_what_a_replica_reserves(device: Device, pool: dict[str, Any], bundles: tuple[dict[str, float], ...]) -> None:
    """The actor in the first bundle, each of Ray's workers in one of its own."""
    assert bundles_of(fleet_of(**pool).pools[0], device) == bundles


def test_each_rank_of_a_group_knows_its_bundles() -> None:
    """The group is placed as a whole: workers of rank 1 are behind those of rank 0 and its own actor."""
    first, second = ranks(Device.GPU, tensor_parallel_size=2, data_parallel_size=2)
    assert (first.spec.id, second.spec.id) == ("p-1.0", "p-1.1")
    assert first.env["VLLM_RAY_BUNDLE_INDICES"] == "1,2"
    assert second.env["VLLM_RAY_BUNDLE_INDICES"] == "4,5"
    assert group_argv(1, 2, "10.0.0.1", 7)[-3:] == (
        "--data-parallel-rank=1",
        "--data-parallel-address=10.0.0.1",
        "--data-parallel-rpc-port=7",
    )


def test_a_revision_tells_what_must_be_rolled() -> None:
    """Size and pace are not part of what a replica is; everything else is."""
    base = fleet_of()
    same = revision_of(base, base.pools[0])
    assert revision_of(base, fleet_of(replicas=9, surge=False).pools[0]) == same
    assert revision_of(base, fleet_of(args=["--seed=1"]).pools[0]) != same
    assert revision_of(fleet_of(), fleet_of(env={"A": "1"}).pools[0]) != same
