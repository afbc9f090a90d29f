"""The dashboard *Prefill and decode, pools*."""

from __future__ import annotations

from deploy.grafana.source.model import Board, Kind, Panel, Query, Row
from deploy.grafana.source.promql import REPLICA, most, rate, ratio, series

ROLES = "replicas with the roles prefill and decode"
DRIVER = "a fleet whose driver reports its pools"

PAIRS = Row(
    "Prefill and decode apart",
    (
        Panel(
            "Who computes prompts",
            "Are prompts computed where they should be?",
            "Decisions for decode replicas: `paired` where a prefill replica computes the prompt, else why the decode"
            " replica does it itself.",
            "Few pairs with long prompts: no prefill replica is up, or all are full.",
            (Query(rate("pointsman_prefill_decisions_total", by="pairing"), "{{pairing}}", ROLES),),
            "reqps",
            Kind.STACK,
        ),
        Panel(
            "Prefill requests by outcome",
            "Do prefill replicas deliver?",
            "Prefill requests of decode replicas, by outcome. All but `ok` are computed by the decode replica itself.",
            "`refused`: the prefill replica is away. `timeout`: it is full. `lost`: KV could not be fetched, look at "
            "the connector.",
            (Query(rate("pointsman_prefill_handoffs_total", REPLICA, by="outcome"), "{{outcome}}", ROLES),),
            "reqps",
            Kind.STACK,
        ),
        Panel(
            "Time of a prefill request",
            "How long does the way over the prefill replica take?",
            "Mean time from asking a prefill replica to its answer, of those with outcome ok, by decode replica.",
            "It is the prompt's own prefill and its queue; when it exceeds the decode replica's own prefill time, add"
            " prefill replicas.",
            (
                Query(
                    ratio(
                        rate("pointsman_prefill_leg_seconds_total", REPLICA, by="replica"),
                        rate("pointsman_prefill_handoffs_total", f'{REPLICA}, outcome="ok"', by="replica"),
                    ),
                    "{{replica}}",
                    ROLES,
                ),
            ),
            "s",
        ),
    ),
)

POOLS = Row(
    "Pools",
    (
        Panel(
            "Replicas of pools",
            "Does each pool have what it should?",
            "Replicas by pool and state, and how many are wanted, as the driver of the fleet reported.",
            "`dead` or `starting` for long: the driver's log says why; `GET /v1/pools` has the last error.",
            (
                Query(
                    f"max by (pool, state) ({series('pointsman_pool_replicas')}) > 0",
                    "{{pool}} {{state}}",
                    waits_for=DRIVER,
                ),
                Query(most("pointsman_pool_replicas_wanted", by="pool"), "{{pool}} wanted", waits_for=DRIVER),
            ),
        ),
        Panel(
            "Deaths in pools",
            "Do replicas die?",
            "Replicas that the driver started again after a death.",
            "A pool whose replicas die again and again: the log of the dead replica, its memory, its GPU.",
            (
                Query(
                    f"max by (pool) (increase({series('pointsman_pool_deaths_total')}[$__rate_interval]))",
                    "{{pool}}",
                    waits_for=DRIVER,
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Replicas of models",
            "Which model has how many replicas up?",
            "Replicas up, by model.",
            "0: clients of that model get 503.",
            (
                Query(
                    f"count by (model) (max by (model, replica) ({series('pointsman_replica_state', state='up')}))",
                    "{{model}}",
                ),
            ),
        ),
    ),
)

BOARD = Board(
    "pointsman-prefill",
    "Pointsman: prefill and decode, pools",
    "Who computes prompts, and whether pools have the replicas they should.",
    (PAIRS, POOLS),
    ("edge", "replica"),
)
