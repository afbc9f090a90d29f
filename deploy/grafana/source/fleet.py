"""The dashboard *Fleet*: who is there, who is busy, who fails."""

from __future__ import annotations

from deploy.grafana.source.model import Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import EDGE, ENGINE, REPLICA, busiest, increase, quantile, rate, ratio, series, total

FAILURES = "pointsman_replica_failures_total"
WHOLE_ANSWER = "edge_le:pointsman_request_seconds_bucket:rate5m"
NOT_UP = f'{EDGE}, state!="up"'
NO_FAILURE = "a replica that fails"

NUMBERS = Row(
    "At a glance",
    (
        stat(
            "Replicas up",
            "Who serves?",
            "Replicas to which at least one edge sends requests.",
            "Compare with the number you started.",
            Query(
                f"count(count by (replica) ({series('pointsman_replica_state', state='up')})) or vector(0)",
                "up",
            ),
            steps=((None, "red"), (1, "green")),
        ),
        stat(
            "Replicas out",
            "Is anybody out?",
            "Replicas that are down, ejected, draining or starting on some edge.",
            "Find them below; `GET /v1/replicas` says why.",
            Query(
                f"count(count by (replica) ({series('pointsman_replica_state', NOT_UP)})) or vector(0)",
                "out",
            ),
            steps=((None, "green"), (1, "orange")),
        ),
        stat(
            "Requests",
            "How much is going on?",
            "Finished requests a second that a replica served.",
            "Nothing: a scale for the other panels.",
            Query(rate("pointsman_requests_total"), "requests"),
            "reqps",
            decimals=1,
        ),
        stat(
            "In flight",
            "How many requests are under way?",
            "Requests that replicas work on, from this edge and others.",
            "Nothing: a scale for the other panels.",
            Query(total("pointsman_in_flight"), "in flight"),
        ),
        stat(
            "Server errors",
            "Do clients see errors of replicas?",
            "Share of answers with a status of 5xx.",
            "Above 1 %, see failed answers below.",
            Query(
                ratio(
                    rate("pointsman_requests_total", f'{EDGE}, class="5xx"'),
                    rate("pointsman_requests_total"),
                    zero=True,
                ),
                "5xx",
            ),
            "percentunit",
            steps=((None, "green"), (0.01, "red")),
        ),
        stat(
            "Imbalance",
            "Is the load even?",
            "Requests in flight on the busiest replica over the mean; 1 is even.",
            "Above 2 under load: one conversation or prefix attracts most of the traffic.",
            Query('max(pointsman_imbalance{edge=~"$edge"})', "imbalance"),
            decimals=1,
        ),
    ),
)

STATE = Row(
    "State",
    (
        Panel(
            "State of replicas",
            "Who was out, and when?",
            "One strip a replica. Several edges may see it differently; the best state counts.",
            "`down`: HAProxy's checks fail. `ejected`: its answers fail behind a green check; look at the engine's "
            "log.",
            (
                Query(
                    "max by (replica) ("
                    + " or ".join(
                        f"{value} * {series('pointsman_replica_state', REPLICA, state=state)}"
                        for value, state in ((4, "up"), (3, "ejected"), (2, "draining"), (1, "starting"), (0, "down"))
                    )
                    + ")",
                    "{{replica}}",
                ),
            ),
            kind=Kind.STATES,
            width=16,
            words=(
                (0, "down", "red"),
                (1, "starting", "blue"),
                (2, "draining", "yellow"),
                (3, "ejected", "orange"),
                (4, "up", "green"),
            ),
        ),
        Panel(
            "Replicas by state",
            "How many are out?",
            "Replicas in each state, as the edges see them, mean of the edges.",
            "When many leave at once, what they share (a node, a switch, a store) is the cause.",
            (
                # An average needs no count of edges, which would be another's number while one edge was not scraped.
                Query(f"avg by (state) ({series('edge_state:pointsman_replica_state:sum')})", "{{state}}"),
            ),
            kind=Kind.STACK,
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        Panel(
            "Requests in flight, by replica",
            "Who is hot?",
            "Requests that each replica works on, from this edge and others.",
            "Compare with tokens in flight: many short requests weigh less than one long one.",
            (Query(busiest(f"max by (replica) ({series('pointsman_in_flight', REPLICA)})"), "{{replica}}"),),
        ),
        Panel(
            "Tokens in flight, by replica",
            "Who has the heavy requests?",
            "Estimated tokens, prompt and output, of the requests in flight.",
            "A replica far above the others holds long conversations; kv_cost moves them when its queue costs more "
            "than its cache saves.",
            (Query(busiest(f"max by (replica) ({series('pointsman_in_flight_tokens', REPLICA)})"), "{{replica}}"),),
        ),
        Panel(
            "Load without a decision",
            "Does somebody else use the replicas?",
            "Requests on replicas that HAProxy placed without the router, and requests that an endpoint's own metrics"
            " show beyond those of the edges.",
            "Lasting foreign requests mean that the router was away, or that clients reach replicas directly.",
            (
                Query(
                    f"sum by (edge) ({series('pointsman_in_flight_foreign', REPLICA)})", "{{edge}} without a decision"
                ),
                Query(
                    f"max by (replica) ({series('pointsman_in_flight_outside', REPLICA)}) > 0",
                    "{{replica}} outside",
                    waits_for="requests that pass no edge",
                ),
            ),
        ),
        Panel(
            "Batch and queue in engines",
            "Who has requests waiting inside?",
            "Requests in the engine's batch, and in its waiting queue, as engines reported.",
            "Waiting requests while other replicas wait for none: the policy prefers their cache. While all wait: add "
            "replicas.",
            (
                Query(
                    busiest(f"max by (replica) ({series('pointsman_engine_running', REPLICA)})"), "{{replica}} running"
                ),
                Query(
                    busiest(f"max by (replica) ({series('pointsman_engine_waiting', REPLICA)})"), "{{replica}} waiting"
                ),
            ),
        ),
        Panel(
            "Requests, by replica",
            "Who serves how much?",
            "Finished requests a second, and those that another replica had refused or dropped before.",
            "Shares follow the policy: even under least_load, by conversation under kv_cost.",
            (
                Query(busiest(rate("pointsman_requests_total", REPLICA, by="replica")), "{{replica}}"),
                Query(
                    f"{rate('pointsman_redispatches_total', REPLICA, by='replica')} > 0",
                    "{{replica}} second choice",
                    waits_for="a replica that refuses or drops a request",
                ),
            ),
            "reqps",
        ),
        Panel(
            "Tokens of engines",
            "Who computes how much?",
            "Prompt and output tokens a second, from the engines' own metrics.",
            "Prompt tokens count whether cached or not.",
            (
                Query(
                    busiest(f"sum by (replica) (rate(vllm:prompt_tokens_total{{{ENGINE}}}[$__rate_interval]))"),
                    "{{replica}} prompt",
                ),
                Query(
                    busiest(f"sum by (replica) (rate(vllm:generation_tokens_total{{{ENGINE}}}[$__rate_interval]))"),
                    "{{replica}} output",
                ),
            ),
            "cps",
        ),
    ),
)

SPEED = Row(
    "Speed",
    (
        Panel(
            "Time to first token in engines, p95",
            "Which replica is slow to answer?",
            "From the request's arrival at the engine to its first token, from the engines' own metrics.",
            "One slow replica among equals: look at its node. All slow: see Is it worth it.",
            (
                Query(
                    busiest(quantile(0.95, "vllm:time_to_first_token_seconds", ENGINE, by="replica")),
                    "{{replica}}",
                ),
            ),
            "s",
        ),
        Panel(
            "First token at the edge, p95",
            "How long do clients of plain endpoints wait?",
            "From the request to the first token of streamed answers, as HAProxy's `first_token` filter measured.",
            "There is no value while the filter is off; engines' own times need no filter.",
            (
                Query(
                    busiest(quantile(0.95, "pointsman_first_token_seconds", REPLICA, by="replica")),
                    "{{replica}}",
                    waits_for="HAProxy's `first_token` filter",
                ),
            ),
            "s",
        ),
        Panel(
            "Response headers, p95",
            "Which replica is slow to accept?",
            "From the request to the response headers. Answers that are not streamed have all their time here.",
            "A streamed answer's headers come before its first token: a slow replica here is slow before it computes.",
            (Query(busiest(quantile(0.95, "pointsman_first_response_seconds", REPLICA, by="replica")), "{{replica}}"),),
            "s",
        ),
        Panel(
            "Whole answer, p95",
            "How long do whole answers take?",
            "From the request to the last byte, by replica.",
            "It follows the length of answers; compare replicas of one model.",
            (Query(busiest(quantile(0.95, "pointsman_request_seconds", REPLICA, by="replica")), "{{replica}}"),),
            "s",
        ),
        Panel(
            "Whole answer of the fleet",
            "Did whole answers become slower?",
            "Median and 95th percentile of all replicas of an edge, from a recording rule, so that a month is drawn "
            "at once.",
            "Compare weeks.",
            (
                Query(
                    f"histogram_quantile(0.5, sum by (le) ({series(WHOLE_ANSWER)}))",
                    "p50",
                ),
                Query(
                    f"histogram_quantile(0.95, sum by (le) ({series(WHOLE_ANSWER)}))",
                    "p95",
                ),
            ),
            "s",
        ),
        Panel(
            "Time to prefill 8,192 tokens",
            "How fast does each replica compute prompts?",
            "Learned from first tokens; 0.18 s until something is learned.",
            "Replicas of one kind differ by a few percent. One that is twice as slow is demoted; look at its clocks "
            "and temperature.",
            (Query(busiest(f"max by (replica) ({series('pointsman_prefill_8k_seconds', REPLICA)})"), "{{replica}}"),),
            "s",
        ),
    ),
)

FAULTS = Row(
    "Faults",
    (
        Panel(
            "Failed answers",
            "Who fails, and how?",
            "Failed answers by replica and cause: error (5xx), cut stream, dropped or refused connection, timeout.",
            "`error`: the engine's log. `unreachable`: network or process. `timeout`: the engine hangs.",
            (
                Query(
                    increase(FAILURES, REPLICA, by="replica, cause", over="$__rate_interval"),
                    "{{replica}} {{cause}}",
                    NO_FAILURE,
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Ejections",
            "Who was taken out for failing?",
            "Ejections by replica and cause, failed probes included.",
            "A replica that is ejected again and again is broken: restart it.",
            (
                Query(
                    increase("pointsman_ejections_total", REPLICA, by="replica, cause", over="$__rate_interval"),
                    "{{replica}} {{cause}}",
                    NO_FAILURE,
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Share kept by failing and slow replicas",
            "Who gets fewer requests than usual?",
            "Share of its usual requests that a demoted replica keeps; 0 for one that fails.",
            "`slow`: four times slower than others of its model. `backpressure`: it answers 429 or 503, give it less "
            "or add replicas.",
            (
                Query(
                    f"min by (replica, cause) (0 * {series('pointsman_replica_failing', REPLICA)})",
                    "{{replica}} fails ({{cause}})",
                    NO_FAILURE,
                ),
                Query(
                    f"min by (replica, cause) ({series('pointsman_replica_demoted_share', REPLICA)})",
                    "{{replica}} demoted ({{cause}})",
                    waits_for="a replica that is slow or full",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Full replicas and retries",
            "Who says that it is full?",
            "Answers 429 and 503 and dropped requests by replica, and decisions that forbade to send a request again "
            "because the retry budget was used up.",
            "Forbidden retries mean that more than a fifth of the requests had to be sent again: clients see the "
            "errors.",
            (
                Query(
                    rate("pointsman_replica_backpressure_total", REPLICA, by="replica"),
                    "{{replica}} full",
                    waits_for="a replica that is full or drops a request",
                ),
                Query(rate("pointsman_retries_forbidden_total", by="edge"), "{{edge}} retries forbidden"),
            ),
            "ops",
        ),
        Panel(
            "Restarts of engines",
            "Did engines start again?",
            "Engine restarts that the router observed; each empties a prefix cache.",
            "Unwanted ones: the engine's log and the kernel's (out of memory).",
            (Query(increase("pointsman_engine_restarts_total", over="$__rate_interval", by="edge"), "{{edge}}"),),
            kind=Kind.BARS,
        ),
        Panel(
            "Reads of endpoints",
            "Does the router reach what it polls?",
            "Reads of `/metrics` and `/v1/models` of endpoints that report nothing themselves, by result.",
            "Failed reads: the endpoint is away, or serves no such path; the router then knows only its own requests.",
            (
                Query(
                    rate("pointsman_scrapes_total", by="what, result"),
                    "{{what}} {{result}}",
                    waits_for="an endpoint that reports nothing",
                ),
            ),
            "ops",
        ),
    ),
)

BOARD = Board(
    "pointsman-fleet",
    "Pointsman: fleet",
    "Replicas: who is there, who is busy, who is slow, who fails.",
    (NUMBERS, STATE, LOAD, SPEED, FAULTS),
    ("edge", "replica"),
)
