"""Whether a router is ready, and why not."""

from pointsman.router.process.readiness import Readiness


def test_all_conditions_have_to_hold() -> None:
    """Each that does not is named with its reason."""
    readiness = Readiness("haproxy", "store")
    readiness.met("store")
    assert readiness.missing() == ["haproxy: starting"]
    readiness.met("haproxy")
    assert readiness.missing() == []
    readiness.lost("haproxy", "its socket is gone")
    assert readiness.missing() == ["haproxy: its socket is gone"]
    assert readiness.missing(exclude=["haproxy"]) == []


def test_a_watched_condition_is_looked_at_whenever_somebody_asks() -> None:
    """Nobody has to report that it changed."""
    why = "nobody serves"
    readiness = Readiness()
    readiness.watch("replicas", lambda: why)
    assert readiness.missing() == ["replicas: nobody serves"]
    why = ""
    assert readiness.missing() == []


def test_a_degraded_part_does_not_make_it_unready() -> None:
    """It is named until it is restored."""
    readiness = Readiness()
    readiness.degraded("store", "no answer")
    assert readiness.missing() == []
    assert (readiness.degraded_parts(), readiness.impaired()) == (["store"], ["store: no answer"])
    readiness.restored("store")
    assert readiness.impaired() == []


def test_a_watched_part_is_named_while_it_is_degraded() -> None:
    """Nobody has to report that it changed, and it is ready all the same."""
    why = "nobody serves qwen"
    readiness = Readiness()
    readiness.watch_part("models", lambda: why)
    readiness.degraded("store", "no answer")
    assert readiness.missing() == []
    assert readiness.impaired() == ["store: no answer", "models: nobody serves qwen"]
    assert readiness.degraded_parts() == ["store"]
    why = ""
    assert readiness.impaired() == ["store: no answer"]
