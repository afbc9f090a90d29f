"""The metrics page: vLLM's names, the model's numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from sim_model import make_model, make_request

from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.metrics import Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """Value by name; the last one where there are several."""
    page = metrics.page().decode()
    return {s.name: s.value for family in text_string_to_metric_families(page) for s in family.samples}


def test_the_page_reads_the_model_when_asked() -> None:
    """Running, waiting, usage and counters are what the model says at that moment."""
    model = make_model(blocks=16, max_num_seqs=1)
    metrics = Metrics(SimConfig(), model)
    model.add(make_request(prompt=8, output=4, hashes=[1, 2]))
    model.add(make_request(prompt=8, output=4, hashes=[1, 2]))
    model.step()
    metrics.waiting_outside = 2
    seen = samples(metrics)
    assert seen["vllm:num_requests_running"] == 1
    assert seen["vllm:num_requests_waiting"] == 3
    assert seen["vllm:kv_cache_usage_perc"] == 2 / 16
    assert seen["vllm:prompt_tokens_total"] == 8
    assert seen["vllm:generation_tokens_total"] == 1
    while model.step().steps:
        pass
    seen = samples(metrics)
    assert (seen["vllm:prefix_cache_queries_total"], seen["vllm:prefix_cache_hits_total"]) == (16, 4)


def test_the_cache_size_is_an_info_gauge() -> None:
    """How plain endpoints are sized: blocks and tokens a block in labels, value 1."""
    page = Metrics(SimConfig(kv_tokens=640, block_size=16), make_model(blocks=40)).page().decode()
    assert 'block_size="16"' in page and 'num_gpu_blocks="40"' in page


def test_first_tokens_fall_into_vllms_buckets() -> None:
    """30 ms is counted at le=0.04 and not at le=0.02."""
    metrics = Metrics(SimConfig(), make_model())
    metrics.first_token_s.observe(0.03)
    page = metrics.page().decode()
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.02",model_name="sim"} 0.0' in page
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.04",model_name="sim"} 1.0' in page


def test_two_replicas_in_a_process_do_not_meet() -> None:
    """Each has its own registry."""
    one, other = Metrics(SimConfig(), make_model()), Metrics(SimConfig(model="other"), make_model())
    one.finished["stop"] += 1
    assert 'model_name="other"' not in one.page().decode()
    assert 'finished_reason="stop",model_name="other"} 0.0' in other.page().decode()
