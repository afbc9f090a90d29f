"""The dashboard *KV and conversations*: what is known of caches, and how full they are."""

from __future__ import annotations

from deploy.grafana.source.model import Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import ENGINE, REPLICA, busiest, increase, mean, most, quantile, rate, series

ERROR = "pointsman_cached_tokens_error"

NUMBERS = Row(
    "At a glance",
    (
        stat(
            "KV used by conversations",
            "Is there room for more conversations?",
            "Share of the fleet's KV that live conversations use, all models together.",
            "Above 100 %, conversations push each other out of the caches: add replicas, or hold new ones "
            "(`admission`).",
            Query(f"max({series('pointsman_kv_live_usage')})", "live"),
            "percentunit",
            steps=((None, "green"), (0.8, "orange"), (1, "red")),
        ),
        stat(
            "Live conversations",
            "How many conversations are going on?",
            "Conversations whose KV counts as in use.",
            "Nothing: a scale for the other panels.",
            Query(f"max({series('pointsman_conversations')})", "live"),
        ),
        stat(
            "Prediction error",
            "Does the router know the caches?",
            "Mean difference of predicted and found cached tokens, as a share of the prompt.",
            "Above 5 %: see resyncs and restarts below.",
            Query(mean(ERROR), "error"),
            "percentunit",
            steps=((None, "green"), (0.05, "orange"), (0.2, "red")),
        ),
        stat(
            "Prefix keys known",
            "How much of the caches is known?",
            "Prefix keys that at least one replica holds.",
            "0 under load: engines do not report, or the policy needs no keys.",
            Query(f"max({series('pointsman_prefix_index_keys')})", "keys"),
        ),
        stat(
            "Prompt tokens waiting",
            "How much work waits in front of prompts?",
            "Prompt tokens of requests that have no first token yet, all replicas.",
            "Divide by a replica's speed on Fleet to have seconds.",
            Query(f"sum(max by (replica) ({series('pointsman_prefill_backlog_tokens')}))", "backlog"),
        ),
        stat(
            "Idle timeout",
            "When does a conversation stop to count?",
            "Idle for longer, a conversation's KV counts no more; learned from traffic.",
            "Nothing: a scale for the other panels.",
            Query(f"max({series('pointsman_conversation_patience_seconds')})", "idle timeout"),
            "s",
        ),
    ),
)

SPACE = Row(
    "Space",
    (
        Panel(
            "Share of KV that live conversations use, by replica",
            "Whose cache is too small for its conversations?",
            "Tokens of KV that live conversations use on a replica, shared prefixes counted once, over its capacity.",
            "Above 100 % the replica evicts what its own conversations will ask for again.",
            (
                Query(
                    busiest(
                        f"max by (replica) ({series('pointsman_kv_footprint_tokens', REPLICA)}) "
                        f"/ max by (replica) ({series('pointsman_kv_capacity_tokens', REPLICA)})"
                    ),
                    "{{replica}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Live conversations and those remembered",
            "Is the table of conversations large enough?",
            "Conversations that count as live, and all in memory.",
            "When some are dropped (below), raise `limits.max_conversations`.",
            (
                Query(most("pointsman_conversations"), "{{edge}} live"),
                Query(most("pointsman_conversations_known"), "{{edge}} known"),
            ),
        ),
        Panel(
            "KV in engines' batches",
            "Which engine is full at this moment?",
            "Share of KV blocks in use by running requests: as engines reported, and from their own metrics.",
            "At 100 % the engine preempts requests.",
            (
                Query(
                    busiest(f"max by (replica) ({series('pointsman_engine_kv_usage', REPLICA)})"),
                    "{{replica}} reported",
                ),
                Query(busiest(f"max by (replica) (vllm:kv_cache_usage_perc{{{ENGINE}}})"), "{{replica}} own metrics"),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Hit rate in engines",
            "Which replica finds its prompts cached?",
            "Prompt tokens found in the prefix cache, over all that were looked for, from the engines' own metrics.",
            "A replica far below the others of its model gets requests whose cache is elsewhere.",
            (
                Query(
                    "bottomk(20, "
                    f"sum by (replica) (rate(vllm:prefix_cache_hits_total{{{ENGINE}}}[$__rate_interval])) "
                    f"/ sum by (replica) (rate(vllm:prefix_cache_queries_total{{{ENGINE}}}[$__rate_interval])))",
                    "{{replica}}",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Prompt tokens waiting, by replica",
            "Where do prompts wait?",
            "Prompt tokens of requests on a replica that have no first token yet.",
            "One replica with all of it: its cache attracts the prompts; kv_cost leaves it when waiting costs more.",
            (
                Query(
                    busiest(f"max by (replica) ({series('pointsman_prefill_backlog_tokens', REPLICA)})"), "{{replica}}"
                ),
            ),
        ),
        Panel(
            "Dropped for lack of room",
            "Does the router forget what it should know?",
            "Prefix keys and conversations dropped because a table was full.",
            "Raise `limits.max_prefix_keys` or `limits.max_conversations`.",
            (
                Query(
                    increase("pointsman_prefix_index_evictions_total", by="edge", over="$__rate_interval"),
                    "{{edge}} prefix keys",
                ),
                Query(
                    increase("pointsman_conversations_evicted_total", by="edge", over="$__rate_interval"),
                    "{{edge}} conversations",
                ),
            ),
            kind=Kind.BARS,
        ),
    ),
)

PICTURE = Row(
    "The router's picture of the caches",
    (
        Panel(
            "Prediction error",
            "How far are predictions off?",
            "Difference of predicted and found cached tokens over the prompt's tokens: median and 95th percentile.",
            "A large 95th percentile with a small median: some engine does not report; see messages below.",
            (Query(quantile(0.5, ERROR), "p50"), Query(quantile(0.95, ERROR), "p95")),
            "percentunit",
            most=1,
        ),
        Panel(
            "Prefix keys",
            "How large is the index?",
            "Keys that some replica holds, and keys expected there because of a decision.",
            "Expected keys that stay: engines do not report.",
            (
                Query(most("pointsman_prefix_index_keys"), "{{edge}} resident"),
                Query(most("pointsman_prefix_index_expected_keys"), "{{edge}} expected"),
            ),
        ),
        Panel(
            "Expectations that were not met",
            "Do engines store what they were sent?",
            "Expected keys that no engine reported in time, and prompts taken out of the backlog by age because no "
            "first token was reported.",
            "Some after a failure is normal. Always: engines report to another address, see `GET /v1/replicas`.",
            (
                Query(rate("pointsman_prefix_expectations_expired_total", by="edge"), "{{edge}} keys"),
                Query(rate("pointsman_prefill_backlog_decayed_total", by="edge"), "{{edge}} prompts"),
            ),
            "ops",
        ),
        Panel(
            "Reports of engines",
            "Do engines report?",
            "Event messages received a second, and the prefix keys in them that were stored or evicted.",
            "No messages: no engine reports. Under a policy without caches one a second and engine. Many more keys "
            "than prompts bring: caches are too small and turn over.",
            (
                Query(rate("pointsman_engine_messages_total", by="edge"), "{{edge}} messages"),
                Query(rate("pointsman_engine_keys_total", by="edge"), "{{edge}} keys"),
            ),
            "ops",
        ),
        Panel(
            "Snapshots asked for",
            "Does the picture have gaps?",
            "Messages answered with the request for a snapshot, because one before was lost or the engine is new.",
            "Some at each start of a router or engine are normal; always: messages are lost on the way.",
            (Query(rate("pointsman_kv_resyncs_total", by="edge"), "{{edge}}"),),
            "ops",
        ),
        Panel(
            "Prefill times learned",
            "Does the router learn how fast replicas are?",
            "First tokens a second from which prefill times were learned: those that had nothing in front of them.",
            "None for long: all replicas have queues, or engines do not report; times stay as they were.",
            (Query(rate("pointsman_prefill_observations_total", by="edge"), "{{edge}}"),),
            "ops",
        ),
    ),
)

BOARD = Board(
    "pointsman-kv",
    "Pointsman: KV and conversations",
    "Caches: how full they are, and how well the router knows them.",
    (NUMBERS, SPACE, PICTURE),
    ("edge", "replica"),
)
