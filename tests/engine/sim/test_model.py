"""The modelled scheduler, by arithmetic: what each step computes, who emits, who waits, and how long it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_model import make_model, make_request, run_until_idle

from pointsman.engine.sim.blocks import Removed, Stored
from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.timing import Timing


def test_a_request_emits_its_tokens_one_a_step() -> None:
    """8 prompt tokens fit one step, which emits the first token; three more steps, three more tokens."""
    model = make_model()
    model.add(make_request("a", prompt=8, output=4))
    results = run_until_idle(model)
    assert [r.prefill_tokens for r in results] == [8, 0, 0, 0]
    assert [r.emitted for r in results] == [["a"]] * 4
    assert [list(r.first) for r in results] == [["a"], [], [], []]
    assert [r.finished for r in results] == [[], [], [], ["a"]]
    assert len(model) == 0


def test_a_long_prompt_is_computed_in_chunks() -> None:
    """70 tokens at 32 a step: 32 + 32 + 6, and only the last chunk emits."""
    model = make_model()
    model.add(make_request("a", prompt=70, output=1))
    results = run_until_idle(model)
    assert [r.prefill_tokens for r in results] == [32, 32, 6]
    assert [r.emitted for r in results] == [[], [], ["a"]]


def test_decoding_comes_before_prefill_in_the_budget() -> None:
    """a decodes (1 token), so b's 64-token prompt gets 31, 31, 2: each step computes 32 at most."""
    model = make_model()
    model.add(make_request("a", prompt=4, output=10))
    model.step()
    model.add(make_request("b", prompt=64, output=1))
    results = [model.step() for _ in range(3)]
    assert [r.prefill_tokens for r in results] == [31, 31, 2]
    assert [r.emitted for r in results] == [["a"], ["a"], ["a", "b"]]


def test_a_resident_prefix_is_not_computed_again() -> None:
    """Two of three blocks are resident: 4 of 12 tokens are left to compute, 8 are reported as cached."""
    model = make_model()
    model.add(make_request(prompt=8, output=1, hashes=[1, 2]))
    run_until_idle(model)
    model.add(make_request("b", prompt=12, output=1, hashes=[1, 2, 3]))
    result = model.step()
    assert result.prefill_tokens == 4
    assert result.first == {"b": 8}
    stats = model.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (8 + 12, 8)


def test_the_last_prompt_token_is_always_computed() -> None:
    """A prompt of exactly two resident blocks hits one: the last token needs computing, and so its whole block."""
    model = make_model()
    for _ in range(2):
        model.add(make_request("a", prompt=8, output=1, hashes=[1, 2]))
        result = model.step()
    assert result.first == {"a": 4}
    assert result.prefill_tokens == 4


def test_generated_blocks_are_found_by_the_next_turn() -> None:
    """Prompt 8 and 8 answer tokens: 15 of 16 tokens were computed, so 3 full blocks wait for the next turn."""
    model = make_model()
    conversation = [1, 2, 3, 4, 5, 6]
    model.add(make_request(prompt=8, output=8, hashes=conversation))
    run_until_idle(model)
    model.add(make_request("next", prompt=22, output=1, hashes=conversation))
    assert model.step().first == {"next": 12}


def test_requests_in_one_step_share_what_the_first_of_them_stores() -> None:
    """vLLM caches blocks when it schedules them: b, admitted right after a, hits a's three blocks."""
    model = make_model()
    model.add(make_request("a", prompt=13, output=1, hashes=[1, 2, 3]))
    model.add(make_request("b", prompt=13, output=1, hashes=[1, 2, 3]))
    result = model.step()
    assert result.first == {"a": 0, "b": 12}
    assert result.prefill_tokens == 13 + 1


def test_the_queue_is_first_come_first_served() -> None:
    """The head does not fit (16 blocks, 10 held); a small one behind it waits all the same."""
    model = make_model(blocks=16)
    model.add(make_request("running", prompt=32, output=8))
    model.step()
    model.add(make_request("large", prompt=32, output=1))
    model.add(make_request("small", prompt=4, output=1))
    result = model.step()
    assert result.emitted == ["running"]
    assert model.stats().waiting == 2
    firsts = [name for r in run_until_idle(model) for name in r.first]
    assert firsts == ["large", "small"]


def test_no_more_sequences_run_than_allowed() -> None:
    """Three requests, two places: the third starts when the first has finished."""
    model = make_model(max_num_seqs=2)
    for name, output in (("a", 2), ("b", 3), ("c", 1)):
        model.add(make_request(name, prompt=4, output=output))
    assert [r.emitted for r in run_until_idle(model)] == [["a", "b"], ["a", "b"], ["b", "c"]]


def test_the_youngest_is_preempted_when_blocks_run_out() -> None:
    """4 blocks. a and b hold 2 each (8 tokens); a's ninth token needs a block, so b gives up both and waits.

    b comes back when a is done, finds its first prompt block resident and computes the rest again.
    """
    model = make_model(blocks=4)
    model.add(make_request("a", prompt=8, output=4, hashes=[1, 2, 3]))
    model.add(make_request("b", prompt=8, output=4, hashes=[5, 6, 7]))
    results = run_until_idle(model)
    assert results[0].emitted == ["a", "b"]
    assert results[1].preempted == ["b"]
    assert results[1].emitted == ["a"]
    assert [r.emitted for r in results[2:]] == [["a"], ["a"], ["b"], ["b"], ["b"]]
    assert results[4].first == {}
    # Both blocks of b were idle then; a took the tail.
    assert results[1].events == [Removed((6,))]
    assert results[4].prefill_tokens == 9 - 4
    assert model.stats().preemptions == 1


def test_nobody_is_admitted_in_a_step_that_preempted() -> None:
    """A step that takes blocks away gives none out: c waits, although it would fit."""
    model = make_model(blocks=5)
    model.add(make_request("a", prompt=8, output=6))
    model.add(make_request("b", prompt=12, output=6))
    model.step()
    model.add(make_request("c", prompt=4, output=1))
    result = model.step()
    assert result.preempted == ["b"]
    assert result.emitted == ["a"]
    assert model.stats().waiting == 2


def test_an_abort_lets_the_queue_move() -> None:
    """The head was refused for want of blocks; after the abort it is admitted."""
    model = make_model(blocks=8)
    model.add(make_request("a", prompt=24, output=8))
    model.step()
    model.add(make_request("b", prompt=24, output=1))
    assert model.step().emitted == ["a"]
    model.abort("a")
    assert model.step().prefill_tokens == 24


def test_the_backlog_counts_prompt_tokens_until_they_are_computed() -> None:
    """70 + 8 tokens queued; one step computes 32 of them."""
    model = make_model()
    model.add(make_request(prompt=70))
    model.add(make_request(prompt=8))
    assert model.stats().queued_prefill_tokens == 78
    model.step()
    assert model.stats().queued_prefill_tokens == 46


def test_a_step_lasts_as_long_as_its_prefill_and_its_decode() -> None:
    """Prefill of x tokens: 10 + 2x + x^2 ms. Decode at usage u: 5 + 8u ms. A step with both takes both."""
    timing = Timing(
        prefill_base_s=0.010,
        prefill_per_token_s=0.002,
        prefill_per_token_squared_s=0.001,
        decode_base_s=0.005,
        decode_per_usage_s=0.008,
    )
    model = make_model(blocks=16, timing=timing)
    model.add(make_request(prompt=8, output=3))
    assert model.step().duration_s == pytest.approx(0.010 + 0.016 + 0.064)
    # Token 9 takes a third block: 3 of 16 in use.
    assert model.step().duration_s == pytest.approx(0.005 + 0.008 * 3 / 16)
    model.add(make_request(prompt=4, output=1))
    # One more block for the prompt: 4 of 16.
    assert model.step().duration_s == pytest.approx(0.010 + 0.008 + 0.016 + 0.005 + 0.008 * 4 / 16)


def test_what_could_never_be_served_is_refused() -> None:
    """A sequence that outgrows the cache, an id in use, an empty prompt: the caller's mistake, said at once."""
    model = make_model(blocks=4)
    with pytest.raises(ValueError, match="needs 5 of 4 blocks"):
        model.add(make_request(prompt=16, output=1))
    model.add(make_request("a"))
    with pytest.raises(ValueError, match="already in the engine"):
        model.add(make_request("a"))
    with pytest.raises(ValueError, match="at least one token"):
        model.add(make_request(prompt=0))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        pytest.param({"blocks": 0}, "blocks", id="no blocks"),
        pytest.param({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "max_num_batched_tokens", id="budget < batch"),
    ],
)
def test_a_size_that_cannot_work_is_refused(changes: dict[str, int], key: str) -> None:
    """The error names the key."""
    with pytest.raises(SimConfigError, match=key):
        ModelConfig(**changes)  # type: ignore[arg-type]


def test_quiet_steps_are_the_steps_until_something_happens() -> None:
    """After its first token a request with 6 to emit has 4 quiet steps: the fifth emits the last token."""
    model = make_model(timing=Timing(decode_base_s=1.0))
    model.add(make_request("a", prompt=8, output=6))
    assert model.quiet_steps() == []
    model.step()
    assert model.quiet_steps() == pytest.approx([1.0, 2.0, 3.0, 4.0])
    result = model.run_quiet(4)
    assert (result.steps, result.emitted) == (4, ["a"])
    assert model.quiet_steps() == []
    assert model.step().finished == ["a"]


def test_quiet_steps_foresee_the_blocks_they_take() -> None:
    """16 blocks, 1 s plus 16 s x usage a step: 2 blocks held by the prompt, a third at token 9, a fourth at 13."""
    model = make_model(blocks=16, timing=Timing(decode_base_s=1.0, decode_per_usage_s=16.0))
    model.add(make_request(prompt=8, output=8))
    model.step()
    # Steps compute tokens 9 to 14: four with 3 blocks (4 s each), two with 4 (5 s each).
    assert model.quiet_steps() == pytest.approx([4, 8, 12, 16, 21, 26])


def test_a_waiting_request_that_may_fit_ends_the_quiet() -> None:
    """Nobody waits: quiet. One arrives: not quiet. It was refused for want of room: quiet again until room is made."""
    model = make_model(blocks=8)
    model.add(make_request(prompt=24, output=6))
    model.step()
    assert model.quiet_steps()
    model.add(make_request(prompt=24, output=1))
    assert model.quiet_steps() == []
    model.step()
    assert model.quiet_steps()


class _Plan:
    """A random workload: arrivals between steps, from few conversations, so that prefixes are shared."""

    requests = st.lists(
        st.tuples(
            st.integers(0, 6),  # steps before it arrives
            st.integers(0, 3),  # conversation
            st.integers(1, 40),  # prompt
            st.integers(1, 12),  # output
            st.booleans(),  # aborted a few steps later
        ),
        min_size=1,
        max_size=12,
    )


@given(plan=_Plan.requests, blocks=st.integers(13, 30), budget=st.integers(4, 40))
def test_blocks_never_leak_and_every_request_gets_its_tokens(
    plan: list[tuple[int, int, int, int, bool]], blocks: int, budget: int
) -> None:
    """Whatever arrives, is preempted or aborted: each survivor emits exactly its tokens, and nothing stays held."""
    model = make_model(blocks=blocks, max_num_seqs=4, max_num_batched_tokens=budget)
    emitted: dict[str, int] = {}
    wanted: dict[str, int] = {}
    finished: set[str] = set()
    resident: set[int] = set()

    def step() -> int:
        result = model.step()
        for name in result.emitted:
            emitted[name] = emitted.get(name, 0) + 1
        finished.update(result.finished)
        for event in result.events:
            if isinstance(event, Stored):
                assert resident.isdisjoint(event.hashes)
                assert event.parent is None or event.parent in resident
                resident.update(event.hashes)
            else:
                assert resident.issuperset(event.hashes)
                resident.difference_update(event.hashes)
        cache = model.cache
        assert min(cache.blank, cache.idle, cache.held) >= 0
        assert result.prefill_tokens <= budget
        return result.steps

    for index, (steps, conversation, prompt, output, aborts) in enumerate(plan):
        for _ in range(steps):
            step()
        name = f"r{index}"
        model.add(make_request(name, prompt=prompt, output=output, hashes=[conversation * 100 + i for i in range(10)]))
        wanted[name] = output
        if aborts:
            step()
            step()
            if model.abort(name):
                del wanted[name]
    for _ in range(5_000):
        if not step():
            break
    assert {name: emitted.get(name) for name in wanted} == wanted
    assert finished >= set(wanted)
    stats = model.stats()
    assert (stats.running, stats.waiting, stats.kv_usage, stats.queued_prefill_tokens) == (0, 0, 0.0, 0)
    assert model.cache.available == blocks
    assert model.cache.idle == len(resident)
    assert stats.generation_tokens == sum(emitted.values())
