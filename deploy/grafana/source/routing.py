"""The dashboard *Routing and policies*: what is decided, why, and what a change of policy did."""

from __future__ import annotations

from deploy.grafana.source.model import GOOD_WHEN_ZERO, Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import increase, most, quantile, rate, ratio, series, total
from deploy.grafana.source.trials import ROLLOUT, SHADOW
from deploy.grafana.source.worth import GIVEN_UP, TTFT

FAIL_OPEN = rate("pointsman_fail_open_total")
DECISIONS = rate("pointsman_decisions_total")

NUMBERS = Row(
    "At a glance",
    (
        stat(
            "Decisions",
            "How much does the router decide?",
            "Routing decisions a second.",
            "Nothing: a scale for the other panels.",
            Query(DECISIONS, "decisions"),
            "reqps",
            decimals=1,
        ),
        stat(
            "Fail open",
            "Does HAProxy have to choose alone?",
            "Share of requests that HAProxy placed alone, because the router did not answer in time.",
            "Above 0.1 %: see lookup time and errors; the runbook has the steps.",
            Query(f"{FAIL_OPEN} / ({FAIL_OPEN} + {DECISIONS})", "fail open"),
            "percentunit",
            steps=((None, "green"), (0.001, "orange"), (0.01, "red")),
        ),
        stat(
            "Lookup, p99",
            "Is the router quick enough?",
            "One lookup in a hundred takes longer, from its bytes to its answer.",
            "The budget is 2 ms; at 50 ms HAProxy fails open.",
            Query(quantile(0.99, "pointsman_lookup_seconds"), "p99"),
            "s",
            steps=((None, "green"), (0.002, "orange"), (0.01, "red")),
        ),
        stat(
            "Held now",
            "Do requests wait for room?",
            "Requests held at the edge until there is KV for them.",
            "A lasting number: the fleet is full of live conversations, add replicas.",
            Query(total("pointsman_held"), "held"),
        ),
        stat(
            "Answered without a replica",
            "Whom do we turn away?",
            "Requests a second that HAProxy answered itself: no room, no replica, unknown model, not allowed.",
            "See the statuses below.",
            Query(f"{rate('pointsman_refused_total')} or vector(0)", "refused"),
            "reqps",
        ),
        stat(
            "Policy as it should be",
            "Does the live policy stand where it should?",
            "Whether every edge could use the policy in its state file, or the one published by other edges.",
            "`refused`: the router's log says what is wrong with it.",
            Query(f"min({series('pointsman_config_last_reload_successful')})", "policy"),
            steps=((None, "red"), (1, "green")),
            words=((0, "refused", "red"), (1, "in force", "green")),
        ),
    ),
)

DECIDED = Row(
    "Decisions",
    (
        Panel(
            "Decisions by reason",
            "Why do requests go where they go?",
            "Decisions a second by policy and reason. The reference of metrics has a sentence for each reason.",
            "Many `*-moved` or `*-spill`: homes are full. `no-candidates`: a model has no replica.",
            (Query(rate("pointsman_decisions_total", by="policy, reason"), "{{policy}} {{reason}}"),),
            "reqps",
            Kind.STACK,
            width=16,
        ),
        Panel(
            "Policy in force",
            "Which policy decided when?",
            "The live policy of each edge; changes are marked on all dashboards.",
            "Edges that share state show the same.",
            (Query(most("pointsman_policy_info", by="edge, policy"), "{{edge}} {{policy}}"),),
            kind=Kind.STATES,
            words=((1, "in force", "blue"),),
        ),
        Panel(
            "First token around changes",
            "What did the last change of policy do for clients?",
            "Median and 99th percentile of all models; a mark shows each change.",
            "Roll back when both rise and the load did not.",
            (Query(quantile(0.5, TTFT), "p50"), Query(quantile(0.99, TTFT), "p99")),
            "s",
            width=6,
        ),
        Panel(
            "Cached share around changes",
            "What did the last change of policy do for the cache?",
            "Prompt tokens found cached, and those that the best candidates were predicted to hold.",
            "A gap between both is what the policy gives up for shorter queues.",
            (
                Query(ratio(rate("pointsman_cached_tokens_total"), rate("pointsman_prompt_tokens_total")), "found"),
                Query(
                    ratio(rate("pointsman_cached_tokens_selected_total"), rate("pointsman_cached_tokens_best_total")),
                    "chosen of best",
                    waits_for="a policy that looks at caches",
                ),
            ),
            "percentunit",
            most=1,
            width=6,
        ),
        Panel(
            "Cached tokens given up, a request",
            "How far does the policy leave caches?",
            "Tokens that the best candidate was predicted to hold and the chosen one was not, mean of a decision.",
            "In milliseconds it is on Is it worth it.",
            (Query(GIVEN_UP, "tokens"),),
            width=6,
        ),
        Panel(
            "Changes of the policy",
            "Who changes the policy, and is it accepted?",
            "Changes from the admin API and from other edges, by result.",
            "Refused ones had an answer that names the key and the choices.",
            (
                Query(
                    increase("pointsman_policy_changes_total", by="edge, result", over="$__rate_interval"),
                    "{{edge}} {{result}}",
                ),
            ),
            kind=Kind.BARS,
            width=6,
        ),
    ),
)

LOOKUPS = Row(
    "Lookups",
    (
        Panel(
            "Lookup time",
            "How long does a decision take?",
            "Time in the router from the lookup's bytes to its answer: median, 90th and 99th percentile.",
            "It grows when the router's core is full (see Edge and HAProxy) or with a policy of your own.",
            tuple(
                Query(quantile(share, "pointsman_lookup_seconds"), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99)
            ),
            "s",
        ),
        Panel(
            "Requests without a decision",
            "Which requests did the router not decide, and why?",
            "Placed by HAProxy alone, ended before a decision (the client left, or its body did not arrive), and "
            "lookups that met a programming error.",
            "Errors: the traceback is in the router's log, and a policy of your own is the first suspect.",
            (
                Query(rate("pointsman_fail_open_total", by="edge"), "{{edge}} fail open"),
                Query(rate("pointsman_undecided_total", by="cause"), "{{cause}}"),
                Query(rate("pointsman_lookup_errors_total", by="edge"), "{{edge}} lookup errors"),
            ),
            "reqps",
        ),
        Panel(
            "Answered by HAProxy, by status",
            "What do clients get that no replica serves?",
            "401 no key, 404 unknown model or path, 413 too large, 429 no room, 503 no replica.",
            "429 and 503 are capacity; 401 and 404 are the clients' configuration.",
            (
                Query(
                    rate("pointsman_refused_total", by="status"),
                    "{{status}}",
                    waits_for="a request that no replica serves",
                ),
            ),
            "reqps",
            Kind.STACK,
        ),
        Panel(
            "Requests without a known API key",
            "Does somebody try keys, or has a client an old one?",
            "By cause: no key at all, or one that is not known, expired or revoked.",
            "A rise after a rotation: a client has the old secret. Of one address, 60 a minute are counted.",
            (
                Query(
                    rate("pointsman_failed_keys_total", by="cause"),
                    "{{cause}}",
                ),
            ),
            "reqps",
            Kind.STACK,
        ),
    ),
)

HOLDS = Row(
    "Holds and sessions",
    (
        Panel(
            "Requests held",
            "How many wait at the edge?",
            "Requests held until there is KV for them.",
            "It should fall to 0 within a minute; if not, add replicas or shorten `admission.wait_s`.",
            (Query(total("pointsman_held", by="edge"), "{{edge}}"),),
        ),
        Panel(
            "What becomes of holds",
            "Do those who wait get in?",
            "Ends of holds by outcome: admitted, timed-out (429 after the whole wait), gone (the client left), "
            "overflow (too many wait).",
            "Timed-out and overflow are clients turned away: add replicas.",
            (Query(rate("pointsman_holds_total", by="outcome"), "{{outcome}}"),),
            "reqps",
            Kind.STACK,
        ),
        Panel(
            "Time held",
            "How long do they wait?",
            "Median and 99th percentile of holds, whatever became of them.",
            "Compare with the time limits of your clients.",
            (
                Query(quantile(0.5, "pointsman_hold_seconds"), "p50", waits_for="a request that is held"),
                Query(quantile(0.99, "pointsman_hold_seconds"), "p99", waits_for="a request that is held"),
            ),
            "s",
        ),
        Panel(
            "Session pins",
            "How many sessions are pinned?",
            "Pins in memory. Only policies that use sessions pin; kv_cost keeps conversations instead.",
            "Near `limits.max_sessions` the oldest are dropped.",
            (Query(total("pointsman_sessions", by="edge"), "{{edge}}"),),
        ),
        Panel(
            "Session pins dropped",
            "Do sessions lose their pin?",
            "Pins dropped because the table was full, and failed writes of the file that keeps them over a restart.",
            "Dropped: raise `limits.max_sessions`. Failed writes: the disk.",
            (
                Query(
                    increase("pointsman_sessions_evicted_total", by="edge", over="$__rate_interval"), "{{edge}} dropped"
                ),
                Query(
                    increase("pointsman_sessions_save_errors_total", by="edge", over="$__rate_interval"),
                    "{{edge}} writes failed",
                ),
            ),
            kind=Kind.BARS,
            steps=GOOD_WHEN_ZERO,
        ),
        Panel(
            "Body that is looked at",
            "Does HAProxy read as far as the policy needs?",
            "Bytes at the start of a body that HAProxy inspects, and those that the live policy uses.",
            "When HAProxy inspects fewer, prompts that begin alike look equal: raise `body_window_bytes` and reload.",
            (
                Query(most("pointsman_haproxy_body_window_bytes"), "{{edge}} HAProxy"),
                Query(most("pointsman_policy_body_window_bytes"), "{{edge}} policy"),
            ),
            "bytes",
        ),
    ),
)

BOARD = Board(
    "pointsman-routing",
    "Pointsman: routing and policies",
    "Decisions and their reasons, changes of the policy and what they did, holds, policies that are tried.",
    (NUMBERS, DECIDED, LOOKUPS, HOLDS, SHADOW, ROLLOUT),
)
