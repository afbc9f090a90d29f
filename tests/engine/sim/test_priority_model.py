"""The modelled scheduler by priority, by arithmetic: who is admitted, who is preempted."""

from __future__ import annotations

import random

import msgspec
from sim_model import make_request, run_until_idle

from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import EngineModel, SimRequest
from pointsman.engine.sim.priority_model import PriorityModel, engine_model
from pointsman.engine.sim.timing import Timing


def make_model(policy: str = "priority", *, blocks: int = 64, max_num_seqs: int = 8) -> EngineModel:
    """Blocks of 4 tokens, 32 tokens a step."""
    return engine_model(
        ModelConfig(
            blocks=blocks,
            block_size=4,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=32,
            timing=Timing(),
            scheduling_policy=policy,
        )
    )


def asked(request_id: str, priority: int, *, prompt: int = 8, output: int = 4) -> SimRequest:
    return msgspec.structs.replace(make_request(request_id, prompt=prompt, output=output), priority=priority)


def test_the_lower_number_is_admitted_first_and_then_the_first_that_came() -> None:
    """One runs at a time: b has the lowest number, of the others a came before c."""
    model = make_model(max_num_seqs=1)
    for name, priority in (("a", 5), ("c", 5), ("b", 0)):
        model.add(asked(name, priority, output=1))
    assert [name for result in run_until_idle(model) for name in result.finished] == ["b", "a", "c"]


def test_one_that_comes_to_the_head_of_a_queue_that_is_stuck_is_admitted() -> None:
    """The long prompt has no blocks; a short one of a lower number does not wait behind it."""
    model = make_model(blocks=8)
    model.add(asked("runs", 0, prompt=8, output=12))
    model.step()
    model.add(asked("long", 5, prompt=20, output=1))
    model.step()
    model.add(asked("short", 0, prompt=4, output=1))
    assert model.step().finished == ["short"]


def test_the_last_in_rank_is_preempted_wherever_it_runs() -> None:
    """8 blocks: the batch request was admitted first, and gives its blocks to the others when they run out. By arrival
    the youngest would."""
    for policy, victim in (("priority", "batch"), ("fcfs", "online-2")):
        model = make_model(policy, blocks=8)
        model.add(asked("batch", 20, prompt=8, output=20))
        model.step()
        model.add(asked("online-1", 0, prompt=8, output=12))
        model.add(asked("online-2", 0, prompt=8, output=12))
        preempted = [name for result in run_until_idle(model) for name in result.preempted]
        assert preempted[0] == victim, policy
        assert model.stats().finished == 3


def test_a_preempted_request_waits_in_its_rank() -> None:
    """Behind one of a lower number that came later."""
    model = make_model(blocks=8)
    model.add(asked("batch", 20, prompt=8, output=20))
    model.step()
    model.add(asked("online", 0, prompt=16, output=12))
    while not model.step().preempted:
        pass
    model.add(asked("late", 0, prompt=24, output=1))
    finished = [name for result in run_until_idle(model) for name in result.finished]
    assert finished == ["online", "late", "batch"]


def test_without_numbers_it_is_the_model_by_arrival() -> None:
    """Step by step, over a load that waits, is cut into chunks and is aborted; preemption hits the youngest in both."""
    dice = random.Random(5)
    requests = [make_request(f"r{n}", prompt=dice.randrange(1, 60), output=dice.randrange(1, 30)) for n in range(80)]
    outcomes = []
    for policy in ("fcfs", "priority"):
        model, steps, dice = make_model(policy, blocks=40), [], random.Random(7)
        for request in requests:
            model.add(request)
            if dice.random() < 0.1:
                model.abort(dice.choice(requests).request_id)
            steps += [model.step() for _ in range(dice.randrange(12))]
        outcomes.append(steps + run_until_idle(model))
        assert len(model) == 0
        assert isinstance(model, PriorityModel) is (policy == "priority")
    assert outcomes[0] == outcomes[1]
    assert any(result.preempted for result in outcomes[0])
