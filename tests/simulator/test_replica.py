"""A replica in virtual time and what it tells routers."""

from __future__ import annotations

import math

from sim_trace import make_conversation, make_session, make_trace, make_turn

from pointsman.contract.events import Finished, FirstToken
from pointsman.engine.sim.model import SimRequest
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace


def make_replica(trace: Trace, *, kv_tokens: int = 4_096, **given: object) -> VirtualReplica:
    return VirtualReplica(3, FleetSettings(replicas=4, kv_tokens=kv_tokens, **given), trace)  # type: ignore[arg-type]


def play(replica: VirtualReplica, trace: Trace, session: int = 0, turn: int = 0) -> tuple[list[int], list[int]]:
    """Serves one turn to its end: the keys stored and evicted meanwhile."""
    asked = trace.sessions[session].turns[turn]
    replica.add(SimRequest(f"{session}.{turn}", asked.prompt_tokens, asked.output_tokens, asked.blocks), 1_000.0 * turn)
    stored: list[int] = []
    evicted: list[int] = []
    while replica.next_s < math.inf:
        for outcome in replica.advance(replica.next_s):
            message = replica.message(outcome.result, [], [])
            if message is not None:
                stored += message.stored
                evicted += message.evicted
    return stored, evicted


def test_it_tells_the_keys_of_what_it_stored() -> None:
    """Exactly those a router sees of the prompt and of the answer that the next prompt contains."""
    trace = make_trace(make_conversation("a", 0.0, [1_000, 1_400], output=24))
    replica = make_replica(trace)
    first, second = trace.sessions[0].turns
    stored, _ = play(replica, trace)
    assert tuple(stored) == trace.prefix_keys(first)[: len(stored)]
    assert len(stored) >= len(trace.prefix_keys(first))
    more, evicted = play(replica, trace, turn=1)
    assert tuple(stored + more)[: len(trace.prefix_keys(second))] == trace.prefix_keys(second)
    assert evicted == []


def test_it_tells_what_it_evicts_from_the_tail() -> None:
    """A full cache gives up the first conversation's last keys for the second's."""
    trace = make_trace(make_session("a", 0.0, make_turn(1_000, 1)), make_session("b", 1.0, make_turn(1_000, 1)))
    replica = make_replica(trace, kv_tokens=1_400)
    stored, _ = play(replica, trace)
    _, evicted = play(replica, trace, session=1)
    assert evicted
    assert evicted == list(reversed(stored))[: len(evicted)]


def test_messages_are_counted_from_the_snapshot() -> None:
    """One more each, and none for a step that tells nothing."""
    trace = make_trace(make_session("a", 0.0, make_turn(1_000, 1)))
    replica = make_replica(trace)
    snapshot = replica.snapshot()
    assert (snapshot.seq, snapshot.snapshot, snapshot.capacity_tokens) == (0, True, 4_096)
    turn = trace.sessions[0].turns[0]
    replica.add(SimRequest("a", turn.prompt_tokens, turn.output_tokens, turn.blocks), 0.0)
    (outcome,) = replica.advance(replica.next_s)
    message = replica.message(outcome.result, [FirstToken("a", 1_000)], [Finished("a", 1_000, 1)])
    assert message is not None
    assert (message.seq, message.epoch, message.first[0].id) == (1, snapshot.epoch, "a")
    outcome.result.events.clear()
    assert replica.message(outcome.result, [], []) is None


def test_a_restart_is_another_life_with_nothing_in_it() -> None:
    """Another epoch, numbers from the beginning, an empty cache."""
    trace = make_trace(make_session("a", 0.0, make_turn(1_000, 1)))
    replica = make_replica(trace)
    epoch = replica.snapshot().epoch
    stored, _ = play(replica, trace)
    replica.restart()
    assert replica.snapshot().epoch != epoch
    assert replica.next_s == math.inf
    assert play(replica, trace)[0] == stored


def test_a_slow_replica_is_slow() -> None:
    """Half the speed, twice the time to the first token: 16.5 + 1,000 x 0.0152 + 0.4 ms = 32 ms at full speed."""
    trace = make_trace(make_session("a", 0.0, make_turn(1_000, 1)))
    times = []
    for speeds in ((1.0,), (0.5,)):
        replica = make_replica(trace, speeds=speeds)
        replica.add(SimRequest("a", 1_000, 1), 0.0)
        times.append(replica.next_s)
    assert 0.032 < times[0] < 0.033
    assert times[1] == 2 * times[0]
