"""Any replica, each as likely. Shares are in test_distribution.py."""

from __future__ import annotations

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.decision import Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import POLICIES, build_policy


def test_is_called_random() -> None:
    """The word in configuration is `random`; the module is not, for the standard library's sake."""
    assert POLICIES["random"].__name__ == "RandomChoice"


def test_load_and_session_do_not_matter() -> None:
    """With the same dice the answer is the same, whoever asks and whatever is in flight."""
    policy = build_policy({"policy": "random"})
    idle, busy = make_candidates(a=0, b=0, c=0), make_candidates(a=90, b=5, c=0)
    answers = {
        tuple(names(policy.rank(make_features(session), fleet, make_context(3)), fleet))
        for fleet in (idle, busy)
        for session in ("", "one", "two")
    }
    assert len(answers) == 1
    assert policy.needs == Needs.NOTHING


def test_reason_is_random() -> None:
    """Both places say so."""
    ranked = build_policy({"policy": "random"}).rank(make_features(), make_candidates(a=0, b=0), make_context())
    assert [place.reason for place in ranked] == [Reason.RANDOM] * 2
