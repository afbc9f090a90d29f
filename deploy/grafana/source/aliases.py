"""The row of *Routing and policies* about aliases: a new version beside the stable one, and what it costs."""

from __future__ import annotations

from deploy.grafana.source.model import Kind, Panel, Query, Row
from deploy.grafana.source.promql import increase, most, rate, ratio

AN_ALIAS = "an alias"
BY_ALIAS = "edge, alias"
BY_VERSION = "edge, alias, model"
VERSION = "{{edge}} {{alias}} {{model}}"
REQUESTS = rate("pointsman_alias_requests_total", by=BY_VERSION)
TIMES = rate("pointsman_alias_ttft_seconds_bucket", by=f"{BY_VERSION}, le")


def _query(expr: str, legend: str = VERSION) -> Query:
    return Query(expr, legend, waits_for=AN_ALIAS)


ALIASES = Row(
    "Aliases",
    (
        Panel(
            "Share of new sessions by version",
            "How far is the new version?",
            "Share of an alias's new sessions that begin with each version (model).",
            "It falls to 0 when the alias is paused or the version rolled back: the event says why.",
            (_query(most("pointsman_alias_share", by=BY_VERSION)),),
            "percentunit",
            most=1,
        ),
        Panel(
            "Sessions that began by version",
            "Do sessions follow the weights?",
            "Sessions a second that began with each version at this edge.",
            "None with a version that has a share: requests without a session are not counted here.",
            (_query(rate("pointsman_alias_sessions_begun_total", by=BY_VERSION)),),
            "ops",
        ),
        Panel(
            "First token by version",
            "Is the new version as quick as the stable one?",
            "Time to first token of requests for an alias: median and 99th percentile, by version.",
            "Beyond `stop.ttft_p99_ratio` the version is stopped. Compare when each has some hundred requests.",
            tuple(
                _query(f"histogram_quantile({share:g}, {TIMES})", f"{VERSION} p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
            "s",
        ),
        Panel(
            "Failed requests by version",
            "Does the new version fail more often than the stable one?",
            "Share of requests for an alias that failed (5xx, or cut by the replica), by version.",
            "Beyond `stop.error_share` above the stable version's, the version is stopped.",
            (_query(ratio(rate("pointsman_alias_errors_total", by=BY_VERSION), REQUESTS)),),
            "percentunit",
            most=1,
        ),
        Panel(
            "Sessions that changed their version",
            "Does anybody notice the rollout in the middle of a conversation?",
            "Sessions that were served by another version than before.",
            "After a rollback: as many as the version had. At other times: a version has no healthy replica left.",
            (
                _query(
                    increase("pointsman_alias_sessions_moved_total", by=BY_ALIAS, over="$__rate_interval"),
                    "{{edge}} {{alias}}",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Prompt tokens computed again for a rollout",
            "What does the rollout cost?",
            "Prompt tokens a second that the fleet held for another version than the one that served.",
            "A peak after a rollback and when a version gets its first sessions; it should end.",
            (_query(rate("pointsman_rollout_recomputed_tokens_total", by=BY_ALIAS), "{{edge}} {{alias}}"),),
        ),
    ),
)
