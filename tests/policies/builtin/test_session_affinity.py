"""A session stays where it is."""

from __future__ import annotations

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.builtin.session_affinity import SessionAffinity
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import build_policy


def session_affinity(**config: object) -> SessionAffinity:
    policy = build_policy({"policy": "session_affinity", **config})
    assert isinstance(policy, SessionAffinity)
    return policy


def rank(policy: SessionAffinity, fleet: Candidates, *, session: str = "s", limit: int = 2) -> list[Ranked]:
    return policy.rank(make_features(session), fleet, make_context(limit=limit))


def test_a_session_stays_home_though_others_are_idler() -> None:
    """The home is first while it is not overloaded; second is the least loaded of the others."""
    fleet = make_candidates(a=1, home=20, c=0, d=3, pin="home")
    ranked = rank(session_affinity(), fleet, limit=4)
    assert names(ranked, fleet) == ["home", "c", "a", "d"]
    assert [place.reason for place in ranked] == [Reason.SESSION_PIN] + [Reason.LEAST_LOAD] * 3


def test_second_is_never_the_home() -> None:
    """The home may be the least loaded of all, yet it is ranked once."""
    fleet = make_candidates(home=0, b=4, c=2, pin="home")
    assert names(rank(session_affinity(), fleet), fleet) == ["home", "c"]


def test_a_new_session_goes_by_the_fallback() -> None:
    """No pin: the fallback's choice with the fallback's own reason."""
    fleet = make_candidates(a=2, b=0)
    ranked = rank(session_affinity(), fleet)
    assert names(ranked, fleet) == ["b", "a"]
    assert ranked[0].reason is Reason.LEAST_LOAD


def test_a_request_without_a_key_goes_by_the_fallback() -> None:
    """No session: nobody's home is asked for."""
    fleet = make_candidates(a=2, b=0)
    ranked = rank(session_affinity(fallback={"policy": "power_of_two"}), fleet, session="")
    assert names(ranked, fleet) == ["b", "a"]
    assert ranked[0].reason is Reason.POWER_OF_TWO


def test_a_session_whose_home_may_not_serve_moves() -> None:
    """Draining or down, the home is registered but no candidate: the fallback chooses, the reason says why."""
    fleet = make_candidates(a=2, b=0, slots=[0, 2])
    fleet.pin = 1
    ranked = rank(session_affinity(), fleet)
    assert names(ranked, fleet) == ["b", "a"]
    assert [place.reason for place in ranked] == [Reason.SESSION_MOVED_GONE, Reason.LEAST_LOAD]


def test_a_session_whose_home_left_moves() -> None:
    """A home no longer registered is told from no home at all."""
    fleet = make_candidates(a=2, b=0, pin="left")
    assert rank(session_affinity(), fleet)[0].reason is Reason.SESSION_MOVED_GONE


def test_overloaded_beyond_the_slack_and_the_factor() -> None:
    """`in_flight > max(overload_slack, overload_factor * mean)`: at the bound a session stays, one above it moves."""
    policy = session_affinity(overload_slack=8, overload_factor=2.0)
    # Mean (8 + 0 + 0 + 0) / 4 = 2, twice that 4: the slack of 8 is the bound.
    assert rank(policy, make_candidates(home=8, b=0, c=0, d=0, pin="home"))[0].reason is Reason.SESSION_PIN
    assert rank(policy, make_candidates(home=9, b=0, c=0, d=0, pin="home"))[0].reason is Reason.SESSION_MOVED_OVERLOAD
    # Mean (20 + 20 + 0 + 0) / 4 = 10, twice that 20: the factor is the bound. With one more the mean is 10.25.
    assert rank(policy, make_candidates(home=20, b=20, c=0, d=0, pin="home"))[0].reason is Reason.SESSION_PIN
    assert rank(policy, make_candidates(home=21, b=20, c=0, d=0, pin="home"))[0].reason is Reason.SESSION_MOVED_OVERLOAD


def test_defaults_are_generous() -> None:
    """32 requests on one of eight otherwise idle replicas, or twice the mean of a busy fleet, move nobody."""
    idle = make_candidates([32] + [0] * 7, pin="r0")
    busy = make_candidates([70] + [34] * 7, pin="r0")  # mean (70 + 238) / 8 = 38.5
    for fleet in (idle, busy):
        assert rank(session_affinity(), fleet)[0].reason is Reason.SESSION_PIN


def test_an_overloaded_home_is_last() -> None:
    """A session that moves goes by the fallback among the others; the home serves only if nobody else can."""
    fleet = make_candidates(a=1, home=40, c=0, d=3, pin="home")
    ranked = rank(session_affinity(), fleet, limit=4)
    assert names(ranked, fleet) == ["c", "a", "d", "home"]
    assert [place.reason for place in ranked] == [
        Reason.SESSION_MOVED_OVERLOAD,
        Reason.LEAST_LOAD,
        Reason.LEAST_LOAD,
        Reason.SESSION_PIN,
    ]
    pair = make_candidates(home=80, b=0, pin="home")
    assert names(rank(session_affinity(overload_factor=1.5), pair), pair) == ["b", "home"]


def test_an_overloaded_home_is_not_chosen_again() -> None:
    """A fallback that does not look at load may name the home; the session moves all the same."""
    policy = session_affinity(fallback={"policy": "random"})
    fleet, context = make_candidates(a=1, home=90, c=0, pin="home"), make_context()
    firsts = [names(policy.rank(make_features("s"), fleet, context), fleet)[0] for _ in range(60)]
    assert set(firsts) == {"a", "c"}


def test_a_lone_home_is_never_overloaded() -> None:
    """One candidate carries the mean, so it is not above it, whatever it carries."""
    ranked = rank(session_affinity(overload_factor=1.0, overload_slack=0), make_candidates(home=900, pin="home"))
    assert [place.reason for place in ranked] == [Reason.SESSION_PIN]


def test_needs_pins_and_what_its_fallback_needs() -> None:
    """The pipeline consults the session table for this policy, with the configured life of a pin."""
    policy = session_affinity(ttl_s=90, fallback={"policy": "least_load", "by": "tokens"})
    assert policy.needs == Needs.SESSION | Needs.PIN | Needs.TOKENS
    assert policy.pin_ttl_s == 90.0


def test_pins_work_below_another_policy() -> None:
    """A policy that leaves some requests to session affinity needs pins, and keeps them as long."""
    policy = build_policy({"policy": "consistent_hash", "fallback": {"policy": "session_affinity", "ttl_s": 60}})
    assert Needs.PIN in policy.needs
    assert policy.pin_ttl_s == 60.0
