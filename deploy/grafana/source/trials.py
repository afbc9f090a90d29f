"""Rows of *Routing and policies* about policies that are tried: one in the shadow, one that is rolled out."""

from __future__ import annotations

from deploy.grafana.source.model import Kind, Panel, Query, Row
from deploy.grafana.source.promql import EDGE, increase, most, rate, ratio, total

IN_THE_SHADOW = "a policy in the shadow"
ROLLED_OUT = "a rollout"

BY_POLICY = "edge, policy"
BY_ARM = "edge, policy, arm"


def _shadow(expr: str, legend: str) -> Query:
    return Query(expr, legend, waits_for=IN_THE_SHADOW)


def _rollout(expr: str, legend: str) -> Query:
    return Query(expr, legend, waits_for=ROLLED_OUT)


def _of(choice: str) -> str:
    """Labels of the series about one of two choices."""
    return f'{EDGE}, choice="{choice}"'


def _in_the_step(share: float) -> str:
    """A quantile of the times to first token that the rollout compares: all of the present step."""
    return f"histogram_quantile({share:g}, {total('pointsman_rollout_ttft_seconds_bucket', by=f'{BY_ARM}, le')})"


PREDICTED = rate("pointsman_shadow_predicted_total", by=BY_POLICY)
MADE = rate("pointsman_shadow_ttft_seconds_total", _of("made"), by=BY_POLICY)
OTHER = rate("pointsman_shadow_ttft_seconds_total", _of("shadow"), by=BY_POLICY)
MOVED = rate("pointsman_shadow_decisions_total", f'{EDGE}, outcome="moved"', by=BY_POLICY)
COMPARED = rate("pointsman_shadow_decisions_total", by=BY_POLICY)

SHADOW = Row(
    "Shadow policy",
    (
        Panel(
            "Shadow policy",
            "Which policy decides beside the live one?",
            "The policy in the shadow of each edge. Its choices have no effect.",
            "`failed`: it is switched off, after ten exceptions or as too slow; `pointsman policy shadow` says why.",
            (_shadow(most("pointsman_shadow_info", by="edge, policy, state"), "{{edge}} {{policy}} {{state}}"),),
            kind=Kind.STATES,
            words=((1, "in this state", "blue"),),
            width=6,
        ),
        Panel(
            "Decisions that would move",
            "How differently does the shadow decide?",
            "Share of compared decisions that the shadow sends to another replica, or to none.",
            "Most of them: queues and caches would be others under it, so predictions say little about what follows.",
            (_shadow(ratio(MOVED, COMPARED), "{{edge}} {{policy}}"),),
            "percentunit",
            most=1,
            width=6,
        ),
        Panel(
            "Regret of the live policy",
            "How much sooner would first tokens come under the shadow?",
            "Predicted time to first token of the choice that was made, less that of the shadow's, mean of a request.",
            "Some 10 ms or more for hours: roll the shadow's policy out. Below 0: keep the live one.",
            (_shadow(f"({MADE} - {OTHER}) / {PREDICTED}", "{{edge}} {{policy}}"),),
            "s",
            least=None,
            width=6,
        ),
        Panel(
            "Cost of the shadow",
            "How much longer does a lookup take?",
            "Time of the shadow's decision, mean of a request that it decides.",
            "60 to 200 µs are normal. Above 1 ms: lower its `sample`. Above 5 ms it is switched off.",
            (_shadow(ratio(rate("pointsman_shadow_seconds_total", by=BY_POLICY), COMPARED), "{{edge}} {{policy}}"),),
            "s",
            width=6,
        ),
        Panel(
            "Predicted first token of both choices",
            "What is the regret part of?",
            "Predicted time to first token, mean of a request, of the choice that was made and of the shadow's.",
            "Both are predictions from the caches and queues that the live policy made.",
            (
                _shadow(ratio(MADE, PREDICTED), "{{edge}} live policy"),
                _shadow(ratio(OTHER, PREDICTED), "{{edge}} {{policy}}"),
            ),
            "s",
        ),
        Panel(
            "Predicted cached tokens of both choices",
            "Which policy finds more in caches?",
            "Prompt tokens predicted to be cached, mean of a request, of the choice that was made and of the shadow's.",
            "More tokens and a later first token: the shadow queues where the cache is.",
            tuple(
                _shadow(
                    ratio(rate("pointsman_shadow_cached_tokens_total", _of(choice), by=BY_POLICY), PREDICTED), legend
                )
                for choice, legend in (
                    ("made", "{{edge}} live policy"),
                    ("shadow", "{{edge}} {{policy}}"),
                )
            ),
        ),
        Panel(
            "Exceptions of the shadow",
            "Does the shadow's policy fail?",
            "Exceptions that the policy in the shadow raised. The request is not compared, and not affected.",
            "The first one's traceback is in the router's log. After ten the shadow is switched off.",
            (
                _shadow(
                    increase("pointsman_shadow_errors_total", by=BY_POLICY, over="$__rate_interval"),
                    "{{edge}} {{policy}}",
                ),
            ),
            kind=Kind.BARS,
        ),
    ),
)

ROLLOUT = Row(
    "Rollout",
    (
        Panel(
            "Rollout",
            "Which policy is on its way, and how did the last one end?",
            "The policy of the latest rollout of each edge: running, or as it ended.",
            "`returned`: it was worse than its bounds; `pointsman policy rollout` says by how much.",
            (_rollout(most("pointsman_rollout_info", by="edge, policy, state"), "{{edge}} {{policy}} {{state}}"),),
            kind=Kind.STATES,
            words=((1, "in this state", "blue"),),
        ),
        Panel(
            "Share of new sessions",
            "How far is the rollout?",
            "Share of new sessions decided by the rollout's policy: all once it is live, none when it was taken back.",
            "It stays on a step until enough requests have ended under both policies.",
            (_rollout(most("pointsman_rollout_share", by=BY_POLICY), "{{edge}} {{policy}}"),),
            "percentunit",
            most=1,
        ),
        Panel(
            "Rollouts that ended",
            "Was a policy taken back?",
            "Rollouts that are over, by outcome: promoted, returned, aborted, overtaken by another policy.",
            "Returned: see first tokens and failures by arm at that time, then the event's text.",
            (
                Query(
                    increase("pointsman_rollouts_ended_total", by="edge, outcome", over="$__rate_interval"),
                    "{{edge}} {{outcome}}",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "First token by arm",
            "Is the new policy as quick as the live one?",
            "Time to first token in the present step under the live policy and the new one: median, 99th percentile.",
            "The rollout compares geometric means with the bound `ttft_ratio`, and returns by itself.",
            tuple(
                _rollout(_in_the_step(share), f"{{{{edge}}}} {{{{policy}}}} {{{{arm}}}} p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
            "s",
        ),
        Panel(
            "Failed requests by arm",
            "Does the new policy fail more often than the live one?",
            "Share of requests of the present step that failed: 5xx, or a stream cut by the replica.",
            "The rollout returns by itself when the difference exceeds the bound `error_share`.",
            (
                _rollout(
                    ratio(
                        total("pointsman_rollout_errors", by=BY_ARM),
                        f"({total('pointsman_rollout_requests', by=BY_ARM)} > 0)",
                    ),
                    "{{edge}} {{policy}} {{arm}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Requests by arm",
            "Are there enough requests for a verdict?",
            "Requests of the present step that ended, by arm, and those not compared because their session is older.",
            "Few: the step lasts longer than `step_s`. Mostly older sessions: wait, or start with a larger step.",
            (
                _rollout(total("pointsman_rollout_requests", by=BY_ARM), "{{edge}} {{policy}} {{arm}}"),
                _rollout(total("pointsman_rollout_not_compared", by=BY_POLICY), "{{edge}} {{policy}} not compared"),
            ),
        ),
    ),
)
