"""Settings of a fleet: what is refused, and what a replica is told."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pointsman.engine.vllm.errors import MissingExtraError, VllmConfigError
from pointsman.engine.vllm.fleet.cluster import check_installed
from pointsman.engine.vllm.fleet.config import FleetConfig, PoolConfig, decode_fleet
from pointsman.engine.vllm.fleet.launch import run


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"model": ""}, "vllm.model: got '', expected a folder or a hub name", id="no model"),
        pytest.param({"replicas": 0}, "vllm.replicas: got 0, expected 1 to 512", id="no replica"),
        pytest.param({"name": "a b"}, "name: got 'a b'", id="a name HAProxy would refuse"),
        pytest.param({"num_gpus": -1.0}, "vllm.num_gpus: got -1.0, expected 0 or more", id="negative GPUs"),
        pytest.param({"heartbeat_s": 0.0}, "vllm.heartbeat_s: got 0.0, expected more than 0", id="no heartbeat"),
        pytest.param({"ttl_s": 2.0}, "vllm.ttl_s: got 2.0, expected more than heartbeat_s, 2.0", id="lease too short"),
        pytest.param({"admin": ["127.0.0.1:1"]}, "vllm.admin: got '127.0.0.1:1', expected http:", id="no URL"),
        pytest.param(
            {"args": ["--port=8000"]}, "expected no --port: it is set by the operating system", id="a port of one's own"
        ),
        pytest.param(
            {"args": ["--served_model_name", "x"]},
            "it is set by the setting `served_name`",
            id="underscores are the same",
        ),
        pytest.param(
            {"modle": "x"},
            "vllm.modle: unknown key (did you mean 'model'?), expected one of 30 known keys",
            id="a key misspelt",
        ),
        pytest.param({"device": "tpu"}, "vllm.device: got 'tpu', expected 'auto' or 'cpu' or 'gpu'", id="device"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, object], says: str) -> None:
    """The error names the key, the value and what was expected."""
    with pytest.raises(VllmConfigError) as caught:
        decode_fleet({"model": "m", **settings})
    assert says in str(caught.value)


def test_a_configuration_made_in_code_is_checked_too() -> None:
    """There is no way round the checks."""
    with pytest.raises(VllmConfigError):
        PoolConfig(model="m", replicas=0)


def test_a_document_without_pools_is_one_pool() -> None:
    """Its keys stand beside the fleet's, and it has the fleet's name."""
    fleet = decode_fleet({"model": "m", "name": "chat", "replicas": 2, "drain_s": 5.0})
    assert fleet == FleetConfig(name="chat", drain_s=5.0, pools=(PoolConfig(name="chat", model="m", replicas=2),))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param(
            {"model": "m", "pools": []},
            "vllm.model: stands beside `pools`, expected it inside one of the pools",
            id="both",
        ),
        pytest.param({"pools": []}, "vllm.pools: got 0 pools, expected 1 to 64", id="none"),
        pytest.param({"pools": "chat"}, "vllm.pools: got 'chat', expected a list", id="no list"),
        pytest.param(
            {"pools": [{"model": "m"}] * 2}, "vllm.pools: got 'vllm' twice, expected a name for each", id="twice"
        ),
        pytest.param({"pools": [{"model": "m", "replica": 1}]}, "vllm.pools[0].replica: unknown key", id="misspelt"),
        pytest.param(
            {"pools": [{"model": "m", "role": "x"}]},
            "vllm.pools[0].role: got 'x', expected 'both' or ",
            id="no such role",
        ),
        pytest.param(
            {"model": "m", "replicas": 300, "data_parallel_size": 2},
            "vllm.replicas: got 300, expected 1 to 256",
            id="ranks count one by one",
        ),
        pytest.param(
            {"model": "m", "control_host": "0.0.0.0"},
            "vllm.control_host: got '0.0.0.0', expected a loopback address, or an admin_token beside it",
            id="orders from anybody",
        ),
    ],
)
def test_pools_are_checked_one_by_one(document: dict[str, object], says: str) -> None:
    """What is wrong is said with the pool's place in the document."""
    with pytest.raises(VllmConfigError) as caught:
        decode_fleet(document)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "executor"),
    [
        ({}, ""),
        ({"tensor_parallel_size": 2}, "ray"),
        ({"pipeline_parallel_size": 2}, "ray"),
        ({"tensor_parallel_size": 2, "args": ["--distributed-executor-backend", "mp"]}, "mp"),
        ({"tensor_parallel_size": 2, "args": ["--distributed_executor_backend=mp"]}, "mp"),
    ],
)
def test_several_workers_are_rays_unless_the_arguments_say_otherwise(settings: dict[str, Any], executor: str) -> None:
    """One worker is vLLM's own choice."""
    assert decode_fleet({"model": "m", **settings}).pools[0].executor == executor


@pytest.mark.parametrize("module", ["ray", "vllm"])
def test_a_missing_extra_is_one_clear_sentence(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray or vLLM the base install works, and this command says what to install."""
    for name in ("ray", "vllm"):
        monkeypatch.setitem(sys.modules, name, None if name == module else sys)
    with pytest.raises(MissingExtraError) as caught:
        run(decode_fleet({"model": "tiny"}))
    assert f"need the Python package '{module}'" in str(caught.value)
    assert "make engine-cpu" in str(caught.value)


def test_a_driver_needs_no_vllm_where_replicas_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cluster to join, vLLM is the cluster's business."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setitem(sys.modules, "ray", sys)
    check_installed(decode_fleet({"model": "m", "ray_address": "auto"}))


def test_a_model_folder_that_is_not_there_is_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is looked for at once; a hub name cannot be."""
    for name in ("ray", "vllm"):
        monkeypatch.setitem(sys.modules, name, sys)
    with pytest.raises(VllmConfigError, match=r"model: got '/no/such', expected a folder that exists"):
        run(decode_fleet({"model": "/no/such"}))
