"""Made-up workloads: the distributions they promise."""

from __future__ import annotations

import random
import statistics

import pytest

from pointsman.simulator.generate import WORKLOADS, Lognormal, describe, generate


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_gives_the_same_trace(name: str) -> None:
    """Twice the same, and another seed gives another."""
    workload = WORKLOADS[name]
    made = generate(workload, sessions=20, seed=5)
    assert made == generate(workload, sessions=20, seed=5)
    assert made != generate(workload, sessions=20, seed=6)


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_prompt_contains_the_one_before(name: str) -> None:
    """A turn is longer than the one before and its answer, and has blocks for all of its prompt."""
    trace = generate(WORKLOADS[name], sessions=30, seed=1)
    for session in trace.sessions:
        before = 0
        for turn in session.turns:
            assert turn.prompt_tokens > before
            assert len(turn.blocks) >= turn.prompt_tokens // trace.block_size
            before = turn.prompt_tokens + turn.output_tokens


def test_agents_are_as_described() -> None:
    """20 turns, first prompts of 25k tokens on average, gaps and answers with the stated medians."""
    trace = generate(WORKLOADS["agentic"], sessions=400, seed=1)
    turns = [turn for session in trace.sessions for turn in session.turns]
    assert {len(session.turns) for session in trace.sessions} == {20}
    # A lognormal of median 24,000 and mean 25,000 has a deviation of 7,300: 365 is the error of a mean of 400.
    assert statistics.fmean(s.turns[0].prompt_tokens for s in trace.sessions) == pytest.approx(25_000, abs=1_100)
    assert statistics.median(turn.output_tokens for turn in turns) == pytest.approx(70, rel=0.1)
    assert statistics.median(t.pause_s for s in trace.sessions for t in s.turns[1:]) == pytest.approx(1.2, rel=0.1)


def test_about_half_of_the_agents_share_the_first_system_prompt() -> None:
    """Pareto with exponent 1.1: the first of the applications has 1 - 2^-1.1 = 53 % of them."""
    trace = generate(WORKLOADS["agentic"], sessions=1_000, seed=1)
    heads = [tuple(session.turns[0].blocks[:96]) for session in trace.sessions]
    share = heads.count(max(set(heads), key=heads.count)) / len(heads)
    # Three deviations of a binomial of 1,000 are 4.7 %.
    assert share == pytest.approx(0.533, abs=0.05)
    assert len(set(heads)) == 8


def test_no_ids_means_no_ids() -> None:
    """Clients that send no session key, and otherwise the same sessions."""
    named, unnamed = (generate(WORKLOADS[name], sessions=10, seed=1) for name in ("agentic", "agentic_no_ids"))
    assert {session.id for session in unnamed.sessions} == {""}
    assert [session.turns for session in unnamed.sessions] == [session.turns for session in named.sessions]


def test_half_of_the_mixed_sessions_chat() -> None:
    """People's chats begin with short prompts; agents' never do."""
    trace = generate(WORKLOADS["mixed"], sessions=600, seed=1)
    chats = sum(session.turns[0].prompt_tokens < 6_144 for session in trace.sessions)
    assert chats / 600 == pytest.approx(0.5, abs=0.08)


def test_a_constant_is_constant() -> None:
    """Low equal to high leaves nothing to draw, zero included."""
    assert Lognormal(0.0, 0.0, 0.0, 0.0).draw(random.Random(1)) == 0.0


def test_people_can_read_what_there_is() -> None:
    """One line a workload."""
    assert len(describe().splitlines()) == len(WORKLOADS)
