"""Metrics of policies that are tried beside the live one, read from them at scrape."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman.router.decide.comparison import Tally
from pointsman.router.decide.rollout import ROLLOUT_ENDS
from pointsman.router.decide.shadow import Shadow
from pointsman.router.decide.trials import Trials
from pointsman.router.metrics.exposition import Family
from pointsman.router.metrics.families import FamilyCollector, counter, gauge, histogram


class TrialCollector(FamilyCollector):
    """Reads the shadow and the rollout. A family has no series while there is none."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def collect(self) -> Iterator[Family]:
        shadow = self._trials.shadow
        shadows = [] if shadow is None else [(shadow, shadow.policies.main.name, shadow.comparison.total)]
        yield from gauge(
            "pointsman_shadow_info",
            "1 for the policy that decides beside the live one, by its state: running, failed.",
            [((name, shadow.state), 1) for shadow, name, _ in shadows],
            *("policy", "state"),
        )
        yield from counter(
            "pointsman_shadow_decisions",
            "Decisions of the shadow policy, by reason of the decision that was made and by outcome: agreed (same "
            "replica), moved (another one, or none).",
            [
                ((name, str(reason), outcome), count)
                for shadow, name, _ in shadows
                for reason, tally in sorted(shadow.comparison.by_reason.items())
                for outcome, count in (("agreed", tally.judged - tally.moved), ("moved", tally.moved))
            ],
            *("policy", "reason", "outcome"),
        )
        yield from self._predictions(shadows)
        yield from self._rollout_families()

    def _predictions(self, shadows: list[tuple[Shadow, str, Tally]]) -> Iterator[Family]:
        """Predictions for both choices, and the cost of the shadow's."""
        yield from counter(
            "pointsman_shadow_predicted",
            "Requests for which the first token was predicted under both choices: that of the live policy and that of "
            "the shadow.",
            [(name, total.predicted) for _, name, total in shadows],
            "policy",
        )
        yield from counter(
            "pointsman_shadow_ttft_seconds",
            "Sum of the predicted times to first token, by choice: made (live policy), shadow. Divided by "
            "pointsman_shadow_predicted_total, a mean.",
            [
                ((name, choice), ms / 1000)
                for _, name, total in shadows
                for choice, ms in (("made", total.made_ms), ("shadow", total.other_ms))
            ],
            *("policy", "choice"),
        )
        yield from counter(
            "pointsman_shadow_cached_tokens",
            "Prompt tokens predicted to be cached, by choice: made (live policy), shadow.",
            [
                ((name, choice), tokens)
                for _, name, total in shadows
                for choice, tokens in (("made", total.made_cached), ("shadow", total.other_cached))
            ],
            *("policy", "choice"),
        )
        yield from counter(
            "pointsman_shadow_seconds",
            "Time that decisions of the shadow policy took in the router.",
            [(name, shadow.spent_s) for shadow, name, _ in shadows],
            "policy",
        )
        yield from counter(
            "pointsman_shadow_errors",
            "Exceptions that the shadow policy raised; no request was harmed.",
            [(name, shadow.errors) for shadow, name, _ in shadows],
            "policy",
        )

    def _rollout_families(self) -> Iterator[Family]:
        rollout = self._trials.rollout
        rollouts = [] if rollout is None else [(rollout, rollout.candidate.main.name)]
        arms = [
            ((name, arm), counts)
            for rollout, name in rollouts
            for arm, counts in (("candidate", rollout.candidate_arm), ("live", rollout.live_arm))
        ]
        yield from gauge(
            "pointsman_rollout_info",
            "1 for the policy of the latest rollout, by its state: running, promoted, returned, aborted, overtaken.",
            [((name, rollout.state), 1) for rollout, name in rollouts],
            *("policy", "state"),
        )
        yield from gauge(
            "pointsman_rollout_share",
            "Share of new sessions that the policy of the rollout decides.",
            [(name, rollout.share) for rollout, name in rollouts],
            "policy",
        )
        yield from counter(
            "pointsman_rollouts_ended",
            "Rollouts that are over, by outcome: promoted (the policy is live), returned (it was worse than its "
            "bounds), aborted (somebody ended it), overtaken (another policy went live).",
            [(outcome, self._trials.rollouts_ended[outcome]) for outcome in ROLLOUT_ENDS],
            "outcome",
        )
        yield from gauge(
            "pointsman_rollout_not_compared",
            "Requests that the latest rollout placed and does not compare, as their session began before the present "
            "step.",
            [(name, rollout.not_compared) for rollout, name in rollouts],
            "policy",
        )
        yield from gauge(
            "pointsman_rollout_requests",
            "Requests of the present step of a rollout that ended, by arm: candidate (policy of the rollout), live.",
            [(of, counts.requests) for of, counts in arms],
            *("policy", "arm"),
        )
        yield from gauge(
            "pointsman_rollout_errors",
            "Requests of the present step of a rollout that failed (5xx, or cut by the replica), by arm.",
            [(of, counts.errors) for of, counts in arms],
            *("policy", "arm"),
        )
        yield from histogram(
            "pointsman_rollout_ttft_seconds",
            "Time to first token of requests of the present step of a rollout, by arm.",
            [(of, counts.ttft_s) for of, counts in arms],
            *("policy", "arm"),
        )
