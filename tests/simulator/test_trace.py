"""Traces: prefix keys from blocks, and rates."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_trace import make_conversation, make_session, make_trace, make_turn

from pointsman.contract.prefix_keys import BOUNDARIES, MAX_KEYS, prefix_keys
from pointsman.simulator.trace import Session, Trace, Turn


def trace_of(*chains: list[int], block_size: int = 64, prompt: int | None = None) -> Trace:
    """One session a chain, each prompt as long as its chain."""
    sessions = [
        Session(f"s{i}", float(i), (Turn(prompt or len(chain) * block_size, 1, 0.0, chain),))
        for i, chain in enumerate(chains)
    ]
    return Trace("made", block_size, tuple(sessions))


def keys(trace: Trace) -> list[tuple[int, ...]]:
    return [trace.prefix_keys(session.turns[0]) for session in trace.sessions]


def test_keys_stand_at_the_routers_boundaries() -> None:
    """100 blocks of 64 tokens are 25,600 bytes: as many keys as boundaries up to there, 16 + 17 of them."""
    (found,) = keys(trace_of(list(range(100))))
    assert len(found) == sum(boundary <= 25_600 for boundary in BOUNDARIES) == 16 + 17


def test_as_many_keys_as_a_body_of_that_length_has() -> None:
    """The made-up keys are as many as real bytes give, at any length."""
    for blocks in (0, 1, 2, 31, 32, 33, 128, 1_280, 2_000):
        # Four bytes a token; the body of that many bytes from its first prompt key on.
        body = (b'"prompt":' + b"x" * (blocks * 64 * 4))[: blocks * 64 * 4]
        (found,) = keys(trace_of(list(range(blocks)), prompt=max(1, blocks * 64)))
        assert len(found) == len(prefix_keys(body)) <= MAX_KEYS


@given(same=st.integers(0, 200), more=st.integers(1, 50), block_size=st.sampled_from([16, 64, 512]))
def test_prompts_share_keys_as_far_as_they_share_blocks(same: int, more: int, block_size: int) -> None:
    """Two chains with `same` blocks in common share exactly the keys that end in those blocks."""
    head = list(range(same))
    one, other = keys(
        trace_of([*head, *range(1_000, 1_000 + more)], [*head, *range(2_000, 2_000 + more)], block_size=block_size)
    )
    shared = sum(boundary <= same * block_size * 4 for boundary in BOUNDARIES)
    assert one[:shared] == other[:shared]
    assert not set(one[shared:]) & set(other[shared:])


def test_fewer_bytes_a_token_spread_keys_over_more_tokens() -> None:
    """At 2 bytes a token the key at 512 bytes stands behind 256 tokens instead of 128."""
    chain = list(range(4))
    assert len(trace_of(chain[:2]).prefix_keys(Turn(128, 1, 0.0, chain[:2]))) == 1
    dense = Trace("made", 64, (), bytes_per_token=2.0)
    assert dense.prefix_keys(Turn(255, 1, 0.0, chain[:3])) == ()
    assert len(dense.prefix_keys(Turn(256, 1, 0.0, chain))) == 1
    assert dense.body_bytes(Turn(255, 1, 0.0, chain)) == 510


def test_a_block_tells_the_keys_that_end_in_it() -> None:
    """Over all blocks of a prompt, that is every key of the prompt once."""
    trace = trace_of(list(range(300)))
    told = [key for name in trace.sessions[0].turns[0].blocks for key in trace.keys_by_block.get(name, ())]
    assert tuple(told) == keys(trace)[0]


def test_a_rate_stretches_the_starts() -> None:
    """Three sessions 2 s apart are 0.5 a second; at 2 a second they are 0.5 s apart."""
    trace = make_trace(*(make_session(f"s{i}", 10.0 + 2.0 * i) for i in range(3)))
    assert trace.sessions_per_s == pytest.approx(0.5)
    faster = trace.at_rate(2.0, random.Random(1))
    assert [session.start_s for session in faster.sessions] == pytest.approx([0.0, 0.5, 1.0])
    assert faster.sessions[2].turns is trace.sessions[2].turns


def test_sessions_that_begin_at_once_are_drawn_apart() -> None:
    """What aiperf writes has no arrivals: they become a Poisson process of the rate."""
    trace = make_trace(*(make_session(f"s{i}") for i in range(2_000)))
    assert trace.sessions_per_s == math.inf
    # The standard error of the mean of 2,000 exponential gaps is 2.2 %.
    assert trace.at_rate(5.0, random.Random(1)).sessions_per_s == pytest.approx(5.0, rel=0.07)


def test_requests_are_counted_over_sessions() -> None:
    """Two turns and one."""
    trace = make_trace(make_conversation("a", 0.0, [16, 32]), make_session("b", 1.0, make_turn()))
    assert trace.requests == 3
    assert "3 requests" in repr(trace)
