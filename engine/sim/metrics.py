"""vLLM's metrics of a simulated replica, under vLLM's names, read from the model when scraped.

Only what can be said truthfully is there; names, labels and buckets are those of `vllm/v1/metrics/loggers.py` 0.32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.model import EngineModel

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
LATENCY_BUCKETS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


class Metrics:
    """One replica's registry."""

    def __init__(self, config: SimConfig, model: EngineModel) -> None:
        self._config = config
        self._model = model
        self._registry = CollectorRegistry()
        self._started_s = time.time()
        self.waiting_outside = 0
        """Requests that have arrived and not entered the engine yet."""
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        """Requests that ended, by reason."""
        labels = {"model_name": config.model, "engine": "0"}
        self._labels = list(labels.values())
        self.first_token_s = Histogram(
            "vllm:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            list(labels),
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=self._registry,
        ).labels(**labels)
        self.latency_s = Histogram(
            "vllm:e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            list(labels),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        ).labels(**labels)
        self._registry.register(self)

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """prometheus_client asks for this to find name clashes; reading the model at construction serves nobody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector protocol."""
        stats = self._model.stats()
        yield self._gauge("num_requests_running", "Number of requests in model execution batches.", stats.running)
        waiting = stats.waiting + self.waiting_outside
        yield self._gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting)
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", stats.kv_usage)
        for name, text, value in (
            (
                "prefix_cache_queries",
                "Prefix cache queries, in terms of number of queried tokens.",
                stats.prefix_queries,
            ),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", stats.prefix_hits),
            ("num_preemptions", "Cumulative number of preemption from the engine.", stats.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", stats.prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", stats.generation_tokens),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
            counter.add_metric(self._labels, value)
            yield counter
        success = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=["model_name", "engine", "finished_reason"],
        )
        for reason, count in self.finished.items():
            success.add_metric([*self._labels, reason], count)
        yield success
        info = {
            "block_size": str(self._config.block_size),
            "enable_prefix_caching": "True",
            "num_gpu_blocks": str(self._model.config.blocks),
            "engine": "0",
        }
        cache = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=list(info)
        )
        cache.add_metric(list(info.values()), 1)
        yield cache
        if slots := self._config.max_loras:
            labels = {
                "max_lora": str(slots),
                "running_lora_adapters": ",".join(self._model.adapters.running),
                "waiting_lora_adapters": "",
            }
            lora = GaugeMetricFamily("vllm:lora_requests_info", "Running stats on lora requests.", labels=list(labels))
            lora.add_metric(list(labels.values()), time.time())
            yield lora
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            value=self._started_s,
        )

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
        gauge.add_metric(self._labels, value)
        return gauge
