"""Virtual time: the same story as single steps, told in fewer words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_model import make_model, make_request

from pointsman.engine.sim.model import EngineModel, SimRequest
from pointsman.engine.sim.timeline import Timeline
from pointsman.engine.sim.timing import Timing

TIMING = Timing(
    prefill_base_s=0.016,
    prefill_per_token_s=0.0015,
    decode_base_s=0.006,
    decode_per_usage_s=0.05,
    decode_per_usage_squared_s=-0.02,
)


def test_an_idle_engine_has_nothing_to_say() -> None:
    """`next_s` is inf before the first request and after the last one."""
    timeline = Timeline(make_model(timing=TIMING))
    assert timeline.next_s == math.inf
    timeline.add(make_request(prompt=4, output=1), now_s=5.0)
    assert timeline.next_s == pytest.approx(5.0 + 0.016 + 4 * 0.0015)
    (outcome,) = timeline.advance(timeline.next_s)
    assert outcome.result.finished
    assert timeline.next_s == math.inf


def test_a_long_answer_is_two_outcomes() -> None:
    """First token and last token are told; what lies between is one stretch, told for the blocks it stored."""
    timeline = Timeline(make_model(timing=Timing(decode_base_s=1.0)))
    timeline.add(make_request("a", prompt=8, output=20), now_s=0.0)
    outcomes = []
    while timeline.next_s < math.inf:
        outcomes += timeline.advance(timeline.next_s)
    assert [(o.at_s, o.result.steps, list(o.result.first), o.result.finished) for o in outcomes] == [
        (0.0, 1, ["a"], []),
        (18.0, 18, [], []),
        (19.0, 1, [], ["a"]),
    ]


def test_an_arrival_is_seen_when_the_step_in_progress_ends() -> None:
    """b arrives at 4.5 s, in the step from 4 to 5 s: it is scheduled at 5 s, and both get a token at 6 s."""
    timeline = Timeline(make_model(timing=Timing(decode_base_s=1.0)))
    timeline.add(make_request("a", prompt=8, output=20), now_s=0.0)
    timeline.advance(4.5)
    timeline.add(make_request("b", prompt=8, output=1), now_s=4.5)
    assert timeline.next_s == pytest.approx(5.0)
    first = [o for o in timeline.advance(10.0) if o.result.first]
    assert [(o.at_s, list(o.result.first)) for o in first] == [(pytest.approx(6.0), ["b"])]


def test_an_abort_ends_a_stretch_too() -> None:
    """The request that was dropped emits nothing more; the other goes on."""
    timeline = Timeline(make_model(timing=Timing(decode_base_s=1.0)))
    timeline.add(make_request("a", prompt=4, output=20), now_s=0.0)
    timeline.add(make_request("b", prompt=4, output=9), now_s=0.0)
    timeline.advance(3.0)
    assert timeline.abort("b", 3.5)
    assert not timeline.abort("b", 3.5)
    finished = [(o.at_s, o.result.finished) for o in timeline.advance(100.0) if o.result.finished]
    assert [names for _, names in finished] == [["a"]]
    assert timeline.next_s == math.inf


class Stepwise:
    """The reference: one step at a time."""

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.next_s = math.inf
        self.told: list[tuple[float, list[str], list[str], list[str]]] = []
        self._pending: tuple[list[str], list[str], list[str]] = ([], [], [])

    def add(self, request: SimRequest, now_s: float) -> None:
        self.model.add(request)
        if self.next_s == math.inf:
            self._begin(now_s)

    def advance(self, now_s: float) -> None:
        while self.next_s <= now_s:
            if any(self._pending):
                self.told.append((self.next_s, *self._pending))
            self._begin(self.next_s)

    def _begin(self, at_s: float) -> None:
        result = self.model.step()
        self._pending = (list(result.first), result.finished, result.preempted)
        self.next_s = at_s + result.duration_s if result.steps else math.inf


@given(
    plan=st.lists(
        st.tuples(
            st.floats(0.001, 0.4),  # gap
            st.integers(0, 2),  # conversation
            st.integers(1, 40),  # prompt
            st.integers(1, 60),  # output
        ),
        min_size=1,
        max_size=10,
    ),
    blocks=st.integers(26, 60),
)
def test_a_timeline_tells_what_single_steps_tell(plan: list[tuple[float, int, int, int]], blocks: int) -> None:
    """Same first tokens, same finishes, same preemptions, at the same moments, in the same final state."""
    timeline = Timeline(make_model(blocks=blocks, timing=TIMING))
    stepwise = Stepwise(make_model(blocks=blocks, timing=TIMING))
    told = []

    def advance(now_s: float) -> None:
        for outcome in timeline.advance(now_s):
            result = outcome.result
            if result.first or result.finished or result.preempted:
                told.append((outcome.at_s, list(result.first), result.finished, result.preempted))
        stepwise.advance(now_s)

    now_s = 0.0
    for index, (gap_s, conversation, prompt, output) in enumerate(plan):
        now_s += gap_s
        advance(now_s)
        # Prompts share hashes; answers have none, so that no two sequences compute the same block.
        hashes = [conversation * 100 + i for i in range(prompt // 4)]
        for engine in (timeline, stepwise):
            engine.add(make_request(f"r{index}", prompt=prompt, output=output, hashes=hashes), now_s)
    advance(1e9)
    assert [names for _, *names in told] == [names for _, *names in stepwise.told]
    assert [at_s for at_s, *_ in told] == pytest.approx([at_s for at_s, *_ in stepwise.told])
    assert timeline.model.stats() == stepwise.model.stats()


def test_blocks_that_are_let_go_make_room() -> None:
    """Kept blocks fill the engine and a second request waits; it begins when they are let go."""
    timeline = Timeline(make_model(blocks=4, block_size=4, timing=TIMING))
    timeline.add(SimRequest("kept", 12, 1, (1, 2, 3), kept=True), now_s=0.0)
    assert timeline.advance(timeline.next_s)[0].result.finished == ["kept"]
    timeline.add(make_request("next", prompt=12, output=1), now_s=1.0)
    assert timeline.next_s == math.inf
    assert timeline.let_go("kept", now_s=2.0)
    assert timeline.next_s == pytest.approx(2.0 + 0.016 + 12 * 0.0015)
    assert not timeline.let_go("kept", now_s=2.0)
