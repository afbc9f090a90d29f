"""Reading an engine's metrics page."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_replica import replica

from pointsman.contract.events import EngineLoad
from pointsman.router.errors import ScrapeError
from pointsman.router.watch.engine_metrics import EngineReading, read_metrics

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
# HELP vllm:num_requests_waiting_by_reason not this one
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",num_gpu_blocks="1000"} 1.0
process_start_time_seconds 1.7e+09
"""

SGLANG = b"""sglang:num_running_reqs{model_name="m"} 4.0
sglang:num_queue_reqs{model_name="m"} 1.0
sglang:token_usage{model_name="m"} 0.5
sglang:max_total_num_tokens{model_name="m"} 90000.0
"""


def test_a_page_of_vllm_is_read_by_exact_names() -> None:
    """A longer name with the same beginning is another metric; braces inside a label are no end."""
    assert read_metrics(VLLM) == EngineReading(
        load=EngineLoad(running=2, waiting=3, kv_usage=0.25), capacity_tokens=16_000, started_s=1.7e9
    )


def test_a_page_of_sglang_is_read_too() -> None:
    """Other names for the same."""
    assert read_metrics(SGLANG) == EngineReading(
        load=EngineLoad(running=4, waiting=1, kv_usage=0.5), capacity_tokens=90_000
    )


def test_engines_behind_one_address_are_summed() -> None:
    """Data-parallel ranks: requests and capacity add up, usage is their mean."""
    page = VLLM + VLLM.replace(b'engine="0"', b'engine="1"').replace(b"0.25", b"0.75")
    reading = read_metrics(page)
    assert reading.load == EngineLoad(running=4, waiting=6, kv_usage=0.5)
    assert reading.capacity_tokens == 32_000


def test_a_capacity_that_is_not_known_yet_is_unsaid() -> None:
    """vLLM prints None before it has measured its memory."""
    assert read_metrics(VLLM.replace(b'"1000"', b'"None"')).capacity_tokens == 0


def test_the_newest_word_on_adapters_counts() -> None:
    """vLLM keeps a sample for every set of adapters there ever was; its value is when it was true."""
    lora = (
        b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.78e+09\n'
        b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""} 1.77e+09\n'
    )
    reading = read_metrics(VLLM + lora)
    assert (reading.adapters, reading.adapter_slots) == (("a", "b"), 2)


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"llamacpp:requests_processing 1\n", b"x vllm:num_requests_running 1"]
)
def test_an_unknown_page_says_what_was_looked_for(page: bytes) -> None:
    """Never a reading of zeros."""
    with pytest.raises(ScrapeError, match="vllm:num_requests_running"):
        read_metrics(page)


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"+Inf", b"", b"x"])
def test_odd_values_are_left_out(value: bytes) -> None:
    """What is no count is none."""
    page = VLLM + b'vllm:num_requests_running{engine="1"} ' + value + b"\n"
    assert read_metrics(page).load.running == 2


@given(st.binary(max_size=200), st.integers(0, 500))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    """Whatever answers: a reading or ScrapeError, nothing else."""
    with suppress(ScrapeError):
        read_metrics(VLLM[:at] + noise + VLLM[at:])


async def test_what_a_simulated_engine_prints_is_read() -> None:
    """The page and its reader agree."""
    async with replica(kv_tokens=4096) as server:
        reading = read_metrics(server._generation.metrics.page())
        assert reading.capacity_tokens == 4096
        assert reading.load == EngineLoad()
        assert reading.started_s > 0
