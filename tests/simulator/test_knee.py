"""The nominal knee against arithmetic one can do by hand."""

from __future__ import annotations

import pytest
from sim_trace import make_session, make_trace, make_turn

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.knee import knee_sessions_per_s
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Session, Trace, Turn


def test_pauses_alone_fill_the_fleet() -> None:
    """Two turns of 8 tokens in all each, on engines too fast to matter: 100 s of pause hold 8 tokens, so 80
    tokens a replica hold 10 sessions, and 10 sessions / 100 s = 0.1/s a replica."""
    blocks = [1, 2]
    trace = make_trace(Session("a", 0.0, (Turn(4, 4, 0.0, blocks), Turn(4, 4, 100.0, blocks))))
    settings = FleetSettings(replicas=3, kv_tokens=80, speeds=(1e6,))
    assert knee_sessions_per_s(trace, settings) == pytest.approx(3 * 0.1, rel=0.01)


def test_what_sessions_share_counts_once() -> None:
    """Two sessions of 8 shared and 8 own tokens: 80 tokens less the 8 shared hold 9 sessions, 8 + 4 tokens each (the
    answer counts): 6 of them, and 6 / 100 s = 0.06/s."""

    def session(id: str, own: list[int]) -> Session:
        blocks = [1, 2, *own]
        return Session(id, 0.0, (Turn(16, 4, 0.0, blocks), Turn(16, 4, 100.0, blocks)))

    trace = make_trace(session("a", [3, 4]), session("b", [5, 6]))
    settings = FleetSettings(replicas=1, kv_tokens=80, speeds=(1e6,))
    assert knee_sessions_per_s(trace, settings) == pytest.approx((80 - 8) / 12 / 100, rel=0.01)


def test_prefill_bounds_single_turns() -> None:
    """Long prompts with one token of answer and room for all: the knee comes just short of one prefill after another.

    8,192 tokens take 16.5 + 124.4 + 28.3 ms = 169 ms: 5.9 a second a replica.
    """
    trace = Trace("made", 64, tuple(make_session(f"s{i}", float(i), make_turn(8_192, 1)) for i in range(3)))
    knee = knee_sessions_per_s(trace, FleetSettings(replicas=1, kv_tokens=10**9))
    assert 0.9 * 5.91 < knee < 5.92


def test_twice_as_fast_carries_more() -> None:
    """Speeds add up: a replica of speed 1 and one of speed 3 carry what four do, per replica."""
    trace = Trace("made", 64, tuple(make_session(f"s{i}", float(i), make_turn(8_192, 1)) for i in range(3)))
    alone = knee_sessions_per_s(trace, FleetSettings(replicas=1, kv_tokens=10**9))
    both = knee_sessions_per_s(trace, FleetSettings(replicas=2, kv_tokens=10**9, speeds=(1.0, 3.0)))
    assert both == pytest.approx(4 * alone)


def test_no_time_has_no_knee() -> None:
    """Steps that cost nothing never fill anything."""
    with pytest.raises(ExperimentError, match="'fast' has no knee"):
        knee_sessions_per_s(make_trace(), FleetSettings(timing="fast"))


def test_agents_fill_eight_replicas_at_seven_sessions_in_ten_seconds() -> None:
    """The reference workload, whose replicas saturate at 0.65 to 0.7 sessions a second in Dynamo's replay too."""
    trace = generate(WORKLOADS["agentic"], sessions=400, seed=1)
    assert knee_sessions_per_s(trace, FleetSettings()) == pytest.approx(0.7, abs=0.05)
