"""The KV connector of a replica that has a role."""

from __future__ import annotations

import json
import os

import pytest

from pointsman.contract.registration import Role
from pointsman.engine.vllm.replica.connector import connector_args, open_side_channel


@pytest.mark.parametrize(
    ("role", "args", "expected"),
    [
        pytest.param(Role.BOTH, (), None, id="none without a role"),
        pytest.param(Role.PREFILL, (), "kv_producer", id="prefill"),
        pytest.param(Role.DECODE, ("--seed=1",), "kv_consumer", id="decode"),
        pytest.param(Role.DECODE, ("--kv-transfer-config", "{}"), None, id="the operator's own"),
        pytest.param(Role.DECODE, ("--kv_transfer_config={}",), None, id="the operator's own, in one word"),
    ],
)
def test_a_role_brings_its_connector(role: Role, args: tuple[str, ...], expected: str | None) -> None:
    """NIXL, and KV that cannot be fetched is computed again."""
    made = connector_args(role, args)
    if expected is None:
        assert made == ()
        return
    (word,) = made
    flag, _, value = word.partition("=")
    assert flag == "--kv-transfer-config"
    assert json.loads(value) == {
        "kv_connector": "NixlConnector", "kv_role": expected, "kv_load_failure_policy": "recompute"
    }  # fmt: skip


def test_each_rank_has_a_port_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM adds the rank to what it is told; what the operator set stays."""
    names = ("VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    open_side_channel("127.0.0.1", 3)
    assert os.environ[names[0]] == "127.0.0.1"
    assert 1024 <= int(os.environ[names[1]]) + 3 <= 65535
    monkeypatch.setenv(names[1], "5700")
    open_side_channel("127.0.0.1", 0)
    assert os.environ[names[1]] == "5700"
