"""The dashboard *Is it worth it*: what routing by cache gives, and what it costs."""

from __future__ import annotations

from deploy.grafana.source.model import Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import EDGE, MODEL, TENANT, increase, quantile, rate, ratio

PROMPT = rate("pointsman_prompt_tokens_total", TENANT)
CACHED = rate("pointsman_cached_tokens_total", TENANT)
HIT_RATE = ratio(CACHED, PROMPT)
REACHED = ratio(
    rate("pointsman_cached_tokens_predicted_total", TENANT), rate("pointsman_cached_tokens_reachable_total", TENANT)
)
GIVEN_UP = (
    f"({rate('pointsman_cached_tokens_best_total')} - {rate('pointsman_cached_tokens_selected_total')}) "
    f"/ {rate('pointsman_decisions_total')}"
)
PER_TOKEN_S = f"avg(pointsman_prefill_8k_seconds{{{EDGE}}}) / 8192"
TTFT = "pointsman_time_to_first_token_seconds"
PER_TOKEN = "pointsman_time_per_output_token_seconds"

NUMBERS = Row(
    "At a glance",
    (
        stat(
            "Prompt tokens found cached",
            "Is my cache being used?",
            "Share of all prompt tokens that engines found in their prefix caches.",
            "Conversations reach 80 % and more. When it is low, look at the share of what could be had: if that is "
            "high, the prompts have little in common.",
            Query(HIT_RATE, "cached"),
            "percentunit",
        ),
        stat(
            "Cache reached",
            "Does routing find the cache that is there?",
            "Prompt tokens predicted to be cached on the chosen replicas, of those predicted on the replicas that hold "
            "most of them.",
            "Below 90 %, requests leave their caches for shorter queues: add replicas, or lower the policy's weight of "
            "queues. With a policy that does not look at caches there is no value.",
            Query(REACHED, "reached", waits_for="a policy that looks at caches"),
            "percentunit",
        ),
        stat(
            "Time to first token, p50",
            "How long does a client wait?",
            "Half of the requests have their first token within this time, holds included.",
            "Compare with the parts below.",
            Query(quantile(0.5, TTFT, TENANT), "p50"),
            "s",
        ),
        stat(
            "Time to first token, p99",
            "How long do the slowest clients wait?",
            "One request in a hundred waits longer, holds included.",
            "When it grows and p50 does not, a few replicas or long prompts are the cause: see Fleet.",
            Query(quantile(0.99, TTFT, TENANT), "p99"),
            "s",
        ),
        stat(
            "Prompt tokens saved",
            "How much work did caches save?",
            "Prompt tokens that no engine had to compute, over the time range of the dashboard.",
            "Nothing: the use of routing by cache.",
            Query(increase("pointsman_cached_tokens_total", TENANT), "saved"),
        ),
        stat(
            "Engine time saved",
            "How many GPU-seconds did caches save?",
            "Time that replicas would have taken to compute the cached tokens, by their measured prefill times, over "
            "the time range of the dashboard. One replica's second is a second of all its GPUs.",
            "Multiply by the price of a replica's second.",
            Query(increase("pointsman_prefill_saved_seconds_total", MODEL), "saved"),
            "s",
        ),
    ),
)

CACHE = Row(
    "Cache",
    (
        Panel(
            "Cached share of prompts, by model",
            "Which model profits?",
            "Share of prompt tokens found cached, and the share that could have been had.",
            "A gap between both lines of a model is cache that its requests gave up for shorter queues.",
            (
                Query(
                    ratio(
                        rate("pointsman_cached_tokens_total", TENANT, by="model"),
                        rate("pointsman_prompt_tokens_total", TENANT, by="model"),
                    ),
                    "{{model}} found",
                ),
                Query(
                    ratio(
                        rate("pointsman_cached_tokens_reachable_total", TENANT, by="model"),
                        rate("pointsman_prompt_tokens_total", TENANT, by="model"),
                    ),
                    "{{model}} could be had",
                    waits_for="a policy that looks at caches",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Cache given up for shorter queues",
            "What does a request lose by not going to its cache (regret)?",
            "Time to compute the tokens that another replica had cached and the chosen one had not, mean of a request.",
            "A few milliseconds buy even load. Hundreds mean that caches lie on full replicas: add replicas.",
            (Query(f"{GIVEN_UP} * {PER_TOKEN_S}", "regret a request"),),
            "s",
        ),
        Panel(
            "Predicted and found cached tokens",
            "Is the router's picture of the caches right?",
            "Cached prompt tokens a second: predicted for the chosen replica at the decision, and reported by its "
            "engine.",
            "When engines find less than was predicted, look at resyncs and restarts on KV and conversations.",
            (
                Query(rate("pointsman_cached_tokens_predicted_total", TENANT), "predicted"),
                Query(CACHED, "found"),
            ),
            "cps",
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Time to first token, by model",
            "Which model is slow to answer?",
            "Median and 99th percentile, holds at the edge included, as engines reported.",
            "See the parts beside it; then Fleet for single replicas.",
            (
                Query(quantile(0.5, TTFT, TENANT, by="model"), "{{model}} p50"),
                Query(quantile(0.99, TTFT, TENANT, by="model"), "{{model}} p99"),
            ),
            "s",
        ),
        Panel(
            "What a first token waits for",
            "Why is the time to first token high?",
            "Mean time to first token in parts: hold (at the edge), queue (in the engine, behind other requests), "
            "prefill (computing the prompt), remote-prefill (all of it, where a prefill replica computes the prompt).",
            "Hold: no room for conversations, add replicas. Queue: replicas are full, add replicas. Prefill: prompts "
            "are long or not cached.",
            (
                Query(
                    ratio(
                        rate("pointsman_time_to_first_token_part_seconds_total", MODEL, by="part"),
                        f"on () group_left () {rate(f'{TTFT}_count', MODEL)}",
                    ),
                    "{{part}}",
                ),
            ),
            "s",
            Kind.STACK,
        ),
        Panel(
            "Time between output tokens, by model",
            "How fast do answers stream?",
            "Mean time between the tokens of a request: median and 99th percentile over requests.",
            "It grows with the batch, and with prefills between decodes. Beyond the pace of reading (50 ms), add "
            "replicas or compute prompts on prefill replicas.",
            (
                Query(quantile(0.5, PER_TOKEN, TENANT, by="model"), "{{model}} p50"),
                Query(quantile(0.99, PER_TOKEN, TENANT, by="model"), "{{model}} p99"),
            ),
            "s",
        ),
    ),
)

USE = Row(
    "Use",
    (
        Panel(
            "Tokens a second",
            "How much is asked of the fleet?",
            "Prompt tokens that were computed, prompt tokens that were cached, and output tokens.",
            "Computed prompt tokens are what prefill capacity is for, output tokens what decode capacity is for.",
            (
                Query(
                    f"{PROMPT} - {CACHED}",
                    "prompt, computed",
                ),
                Query(CACHED, "prompt, cached"),
                Query(rate("pointsman_output_tokens_total", TENANT), "output"),
            ),
            "cps",
            Kind.STACK,
        ),
        Panel(
            "Requests, by model and status",
            "Who asks, and does it work?",
            "Finished requests a second that a replica served, by model and class of the status.",
            "5xx: see failed answers on Fleet. 4xx are the clients' own.",
            (Query(rate("pointsman_model_requests_total", TENANT, by="model, class"), "{{model}} {{class}}"),),
            "reqps",
            Kind.STACK,
        ),
        Panel(
            "Largest users",
            "Who uses it?",
            "Tokens a second, prompt and output, of the ten largest pairs of tenant and model. Without API keys there"
            " is one tenant without a name.",
            "A tenant that takes most of the fleet delays all others: give it a pool of its own, or limits.",
            (
                Query(
                    f"topk(10, {rate('pointsman_prompt_tokens_total', TENANT, by='tenant, model')} "
                    f"+ {rate('pointsman_output_tokens_total', TENANT, by='tenant, model')})",
                    "{{tenant}} {{model}}",
                ),
            ),
            "cps",
            Kind.TOP,
        ),
        Panel(
            "Whole answers, by operation",
            "How long do whole answers take?",
            "Median and 99th percentile from the request to the last byte, by operation (chat, completion, "
            "embeddings).",
            "It follows the length of answers; use it for time limits of clients.",
            (
                Query(
                    quantile(
                        0.5,
                        "gen_ai_server_request_duration_seconds",
                        f'{EDGE}, gen_ai_request_model=~"$model"',
                        by="gen_ai_operation_name",
                    ),
                    "{{gen_ai_operation_name}} p50",
                ),
                Query(
                    quantile(
                        0.99,
                        "gen_ai_server_request_duration_seconds",
                        f'{EDGE}, gen_ai_request_model=~"$model"',
                        by="gen_ai_operation_name",
                    ),
                    "{{gen_ai_operation_name}} p99",
                ),
            ),
            "s",
            width=12,
        ),
        Panel(
            "First tokens within 2.5 s",
            "Do we keep our promise?",
            "Share of first tokens that came within 2.5 seconds, over five minutes and over six hours. The alerts "
            "PointsmanTTFTBurns* watch the same share.",
            "Below 99 %, see what a first token waits for.",
            (
                Query(
                    f"1 - avg(edge_model:pointsman_late_first_tokens:ratio_rate5m{{{MODEL}}})",
                    "5 minutes",
                ),
                Query(
                    f"1 - avg(edge_model:pointsman_late_first_tokens:ratio_rate6h{{{MODEL}}})",
                    "6 hours",
                ),
            ),
            "percentunit",
            most=1,
            least=None,
            width=12,
        ),
    ),
)

BOARD = Board(
    "pointsman-worth",
    "Pointsman: is it worth it",
    "What routing by cache gives: hit rate, time to first token, work saved, and what it costs.",
    (NUMBERS, CACHE, LATENCY, USE),
    ("edge", "model", "tenant"),
)
