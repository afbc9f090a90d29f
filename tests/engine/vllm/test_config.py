"""Settings of a fleet: what is refused, and what a replica is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.vllm import cpu
from engine.vllm.cluster import check_installed
from engine.vllm.config import Device, VllmConfig, decode, replica_env, replica_spec
from engine.vllm.errors import MissingExtraError, VllmConfigError
from engine.vllm.launch import run


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"model": ""}, "vllm.model: '' (expected a folder or a hub name)", id="no model"),
        pytest.param({"replicas": 0}, "vllm.replicas: 0 (expected 1 to 512)", id="no replica"),
        pytest.param({"name": "a b"}, "vllm.name: 'a b'", id="a name HAProxy would refuse"),
        pytest.param({"num_gpus": -1.0}, "vllm.num_gpus: -1.0 (expected 0 or more)", id="negative GPUs"),
        pytest.param({"heartbeat_s": 0.0}, "vllm.heartbeat_s: 0.0 (expected more than 0)", id="no heartbeat"),
        pytest.param({"ttl_s": 2.0}, "vllm.ttl_s: 2.0 (expected more than heartbeat_s, 2.0)", id="lease too short"),
        pytest.param({"admin": ["127.0.0.1:1"]}, "vllm.admin: '127.0.0.1:1' (expected http://host:port)", id="no URL"),
        pytest.param(
            {"args": ["--port=8000"]}, "expected no --port: it is set by the operating system", id="a port of one's own"
        ),
        pytest.param(
            {"args": ["--served_model_name", "x"]},
            "it is set by the setting `served_name`",
            id="underscores are the same",
        ),
        pytest.param({"modle": "x"}, "unknown field `modle`", id="a key misspelt"),
        pytest.param({"device": "tpu"}, "Invalid enum value 'tpu' - at `$.device`", id="no such device"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, object], says: str) -> None:
    """The error names the key, the value and what was expected."""
    with pytest.raises(VllmConfigError) as caught:
        decode({"model": "m", **settings})
    assert says in str(caught.value)


def test_a_configuration_made_in_code_is_checked_too() -> None:
    """There is no way round the checks."""
    with pytest.raises(VllmConfigError):
        VllmConfig(model="m", replicas=0)


def test_cpu_settings_come_first_so_that_the_users_own_win() -> None:
    """vLLM takes the last of two equal options: the user's come after ours, what Pointsman owns after both."""
    config = VllmConfig(model="m", args=("--block-size=64",), env={"OMP_NUM_THREADS": "8"})
    argv = replica_spec(config, 1, Device.CPU, "/models/m").argv
    assert argv[: len(cpu.ARGS)] == cpu.ARGS
    assert argv[len(cpu.ARGS) :] == ("--block-size=64", "--model=/models/m", "--served-model-name=m")
    env = replica_env(config, Device.CPU, "m")
    assert env["OMP_NUM_THREADS"] == "8"
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_replica_on_a_gpu_gets_no_cpu_settings() -> None:
    """GPU or CPU is a matter of configuration: nothing of the CPU's settings reaches a GPU."""
    config = VllmConfig(model="m", served_name="big")
    assert replica_spec(config, 1, Device.GPU, "m").argv == ("--model=m", "--served-model-name=big")
    assert not cpu.ENV.keys() & replica_env(config, Device.GPU, "m").keys()


def test_a_model_in_a_folder_needs_no_hub(tmp_path: Path) -> None:
    """The hub is switched off for a folder, and left alone for a name."""
    config = VllmConfig(model="m")
    assert replica_env(config, Device.GPU, str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in replica_env(config, Device.GPU, "org/model")


def test_replicas_are_numbered_from_one() -> None:
    """Ids are the fleet's name and a number, and fit HAProxy's server names."""
    config = VllmConfig(model="m", name="n" * 56, replicas=512)
    assert config.replica_id(1).endswith("n-1")
    assert len(config.replica_id(512)) <= 64


@pytest.mark.parametrize("module", ["ray", "vllm"])
def test_a_missing_extra_is_one_clear_sentence(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray or vLLM the base install works, and this command says what to install."""
    for name in ("ray", "vllm"):
        monkeypatch.setitem(sys.modules, name, None if name == module else sys)
    with pytest.raises(MissingExtraError) as caught:
        run(VllmConfig(model="tiny"))
    assert f"need the Python package '{module}'" in str(caught.value)
    assert "make engine-cpu" in str(caught.value)


def test_a_driver_needs_no_vllm_where_replicas_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cluster to join, vLLM is the cluster's business."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setitem(sys.modules, "ray", sys)
    check_installed(VllmConfig(model="m", ray_address="auto"))


def test_a_model_folder_that_is_not_there_is_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is looked for at once; a hub name cannot be."""
    for name in ("ray", "vllm"):
        monkeypatch.setitem(sys.modules, name, sys)
    with pytest.raises(VllmConfigError, match=r"vllm\.model: '/no/such' \(expected a folder that exists"):
        run(VllmConfig(model="/no/such"))
