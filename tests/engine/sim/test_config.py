"""Settings that cannot work are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.contract.config import decode
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import SimConfigError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("port", -1, id="port"),
        pytest.param("model", "", id="model"),
        pytest.param("replica_id", "r 1", id="a space in the id"),
        pytest.param("replica_id", "", id="no id"),
        pytest.param("register", ("http://ok:1", "router:9001"), id="an admin URL without scheme"),
        pytest.param("url", "10.0.0.1:8000", id="a URL without scheme"),
        pytest.param("timing", "slow", id="timing"),
        pytest.param("token_interval_ms", -1.0, id="negative pace"),
        pytest.param("first_token_ms", float("inf"), id="endless wait"),
        pytest.param("heartbeat_s", 0.0, id="no heartbeat"),
        pytest.param("kv_tokens", 16, id="one block"),
        pytest.param("block_size", 0, id="no block size"),
        pytest.param("max_num_seqs", 0, id="no places"),
        pytest.param("max_num_batched_tokens", 8, id="budget below the batch"),
    ],
)
def test_a_value_that_cannot_work_is_refused(key: str, value: Any) -> None:
    """The error names the key."""
    with pytest.raises(SimConfigError, match=key):
        SimConfig(**{key: value})


def test_decoding_reports_such_values_as_its_own_findings() -> None:
    """So that a file with a bad value and one with a bad type are reported alike."""
    with pytest.raises(SimConfigError, match=r"^timing: got 'slow', expected one of"):
        decode({"timing": "slow"}, SimConfig, error=SimConfigError)
    with pytest.raises(SimConfigError, match=r"^tempo: unknown key"):
        decode({"tempo": 5}, SimConfig, error=SimConfigError)


def test_the_context_length_fits_the_cache() -> None:
    """100 tokens of KV in blocks of 16 are 6 blocks: 96 tokens."""
    assert SimConfig(kv_tokens=100, max_model_len=4_096).context_tokens == 96
    assert SimConfig(max_model_len=4_096).context_tokens == 4_096


def test_a_pace_replaces_the_preset() -> None:
    """5 ms a token; without one the preset counts."""
    assert SimConfig(token_interval_ms=5).model_config().timing.decode_s(1.0) == 0.005
    assert SimConfig(timing="fast").model_config().timing.decode_s(1.0) == 0.0
