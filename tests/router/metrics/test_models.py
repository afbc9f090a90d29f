"""Families by model and tenant, and those of OpenTelemetry's conventions, from one set of counts."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pointsman.router.counts.models import ModelCounts
from pointsman.router.metrics.exposition import render
from pointsman.router.metrics.families import collect_all
from pointsman.router.metrics.models import ModelCollector

Samples = dict[str, dict[tuple[str, ...], float]]
"""By name, then by label values in the order of the labels' names."""


async def samples(counts: ModelCounts) -> Samples:
    page = (await render(collect_all(ModelCollector(counts)))).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


async def test_own_families_have_model_and_tenant() -> None:
    """Sums over operations; statuses as classes."""
    counts = ModelCounts()
    for operation, status in (("chat", 200), ("text_completion", 204), ("chat", 500), ("chat", -1)):
        row = counts.row("m", "acme", operation)
        row.duration(status).observe(0.3)
        row.prompt_tokens += 100
        row.ttft_s.observe(0.2)
    counts.row("m", "", "chat").prompt_tokens += 7
    found = await samples(counts)
    assert found["pointsman_model_requests_total"] == {
        ("2xx", "m", "acme"): 2,
        ("5xx", "m", "acme"): 1,
        ("none", "m", "acme"): 1,
    }
    assert found["pointsman_prompt_tokens_total"] == {("m", "acme"): 400, ("m", ""): 7}
    assert found["pointsman_time_to_first_token_seconds_count"] == {("m", "acme"): 4}


async def test_conventions_have_their_own_labels_and_bounds() -> None:
    """What is longer than the last bound, or shorter than the first, stays counted; tenants are summed."""
    counts = ModelCounts()
    for tenant, seconds in (("a", 0.0007), ("b", 0.03), ("b", 30.0)):
        row = counts.row("m", tenant, "chat")
        row.ttft_s.observe(seconds)
        row.per_token_s.observe(seconds / 10)
        row.duration(200).observe(100 * seconds)
    counts.row("m", "a", "chat").duration(503).observe(1.0)
    counts.row("m", "a", "chat").duration(-1).observe(1.0)
    found = await samples(counts)
    labels = ("chat", "pointsman", "m")
    bounds = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
    assert found["gen_ai_server_time_to_first_token_seconds_bucket"] == {
        (*labels, repr(bound)): 1 if bound < 0.03 else 2 for bound in bounds
    } | {(*labels, "+Inf"): 3}
    assert found["gen_ai_server_time_to_first_token_seconds_count"] == {labels: 3}
    assert found["gen_ai_server_time_per_output_token_seconds_bucket"][(*labels, "0.01")] == 2
    assert found["gen_ai_server_request_duration_seconds_count"] == {
        ("", *labels): 3,
        ("503", *labels): 1,
        ("_OTHER", *labels): 1,
    }
    assert found["gen_ai_server_request_duration_seconds_bucket"][("", *labels, "81.92")] == 2


async def test_what_was_never_measured_has_no_series() -> None:
    """An endpoint that reports nothing has no time to first token, rather than one of zero."""
    counts = ModelCounts()
    counts.row("m", "", "chat").duration(200).observe(1.0)
    found = await samples(counts)
    assert "pointsman_time_to_first_token_seconds_bucket" not in found
    assert "gen_ai_server_time_to_first_token_seconds_bucket" not in found
    assert found["pointsman_model_requests_total"] == {("2xx", "m", ""): 1}


async def test_parts_of_a_time_to_first_token_are_by_model() -> None:
    """All parts are there from the first request on, so that their rates are."""
    counts = ModelCounts()
    for tenant in ("a", "b"):
        row = counts.row("m", tenant, "chat")
        row.hold_s, row.queue_s, row.prefill_s = row.hold_s + 1, row.queue_s + 2, row.prefill_s + 3
        row.saved_s += 5
    found = await samples(counts)
    assert found["pointsman_time_to_first_token_part_seconds_total"] == {
        ("m", "hold"): 2,
        ("m", "queue"): 4,
        ("m", "prefill"): 6,
        ("m", "remote-prefill"): 0,
    }
    assert found["pointsman_prefill_saved_seconds_total"] == {("m",): 10}
