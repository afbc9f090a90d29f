"""Changing the live policy: what a change that fails leaves as it was."""

import random

import pytest

from pointsman.policies.errors import PolicyError
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import StaleVersionError


def make_core() -> Core:
    return Core({"policy": "least_load"}, rng=random.Random(1))


def test_a_change_is_live_with_its_defaults_filled_in() -> None:
    """The answer is what is live, and those who asked to know are called once."""
    core = make_core()
    changes: list[str] = []
    core.on_policy_changed.append(lambda: changes.append(core.pipeline.policy.name))
    applied = core.policy.put({"policy": "round_robin"})
    assert applied == core.policy.document == dict(core.pipeline.policy.describe())
    assert changes == ["round_robin"]
    assert core.decision_metrics.policy_reloads == {"applied": 1}


def test_a_change_that_fails_leaves_the_policy_that_decides() -> None:
    """Somebody waits for the refusal, so it is counted and no more."""
    core = make_core()
    before = core.policy.etag
    with pytest.raises(PolicyError):
        core.policy.put({"policy": "least_load", "surprise": 1})
    assert core.policy.etag == before
    assert core.decision_metrics.policy_reloads == {"refused": 1}
    assert core.decision_metrics.policy_reload_ok == 1


def test_a_refusal_that_nobody_reads_shows_until_a_change_succeeds() -> None:
    """Which policy should be live is in doubt meanwhile."""
    core = make_core()
    with pytest.raises(PolicyError):
        core.policy.put({"policy": "nobody knows it"}, asked=False)
    assert core.decision_metrics.policy_reload_ok == 0
    core.policy.put({"policy": "random"})
    assert core.decision_metrics.policy_reload_ok == 1


def test_a_dry_run_changes_and_counts_nothing() -> None:
    """It describes what would be live, or raises."""
    core = make_core()
    assert core.policy.put({"policy": "random"}, dry_run=True)["policy"] == "random"
    with pytest.raises(PolicyError):
        core.policy.put({"policy": "nobody knows it"}, dry_run=True)
    assert core.policy.document["policy"] == "least_load" and not core.decision_metrics.policy_reloads


def test_a_writer_that_saw_another_version_is_refused() -> None:
    """`*` and the live version pass."""
    core = make_core()
    seen = core.policy.etag
    core.policy.put({"policy": "random"}, if_match=seen)
    with pytest.raises(StaleVersionError):
        core.policy.put({"policy": "round_robin"}, if_match=seen)
    assert core.policy.document["policy"] == "random"
    core.policy.put({"policy": "round_robin"}, if_match="*")


def test_equal_documents_have_equal_versions() -> None:
    """On every router, whatever was said by hand and what by default."""
    one, other = make_core(), make_core()
    one.policy.put({"policy": "least_load"})
    other.policy.put({"policy": "least_load", "by": "requests"})
    assert one.policy.etag == other.policy.etag
    other.policy.put({"policy": "least_load", "by": "tokens"})
    assert one.policy.etag != other.policy.etag


def test_a_saved_policy_comes_back_unless_the_configuration_changed() -> None:
    """Then the configuration wins; a saved one that is no longer valid is left."""
    core = make_core()
    core.policy.restore({"policy": "random"}, {"policy": "round_robin"})
    assert core.policy.document["policy"] == "least_load"
    core.policy.restore({"policy": "nobody knows it"}, {"policy": "least_load"})
    assert core.policy.document["policy"] == "least_load"
    core.policy.restore({"policy": "random"}, {"policy": "least_load"})
    assert core.policy.document["policy"] == "random"


def test_a_policy_that_needs_more_of_the_body_than_haproxy_shows_warns() -> None:
    """Not where HAProxy does not say how far it looks."""
    core = make_core()
    assert core.policy.warnings({"policy": "kv_cost"}) == []
    core.edge_health.body_window_bytes = 16_384
    (warning,) = core.policy.warnings({"policy": "kv_cost"})
    assert "HAProxy looks at 16384" in warning
    assert core.policy.warnings({"policy": "least_load"}) == []
