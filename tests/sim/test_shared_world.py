"""Edges, engines, clients and a store, all failing by dice: what holds at every moment, and what is promised after.

A seed that fails names itself, its last events, and the command that replays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from many_worlds import look_at_all, report
from shared_world import Violation, run_world

from pointsman.router.edges.documents import SharedDocuments
from pointsman.router.edges.peers import Peers
from pointsman.router.edges.rounds import Kind, Part, Rounds
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fleet.replica import Replica
from pointsman.router.kv.conversation import Name
from pointsman.router.kv.conversations import Conversations
from pointsman.router.kv.event_cursor import EventCursor
from pointsman.router.kv.prefix_index import PrefixIndex
from pointsman.router.requests.table import RequestTable

SHORT_S = 8.0
"""Of faults, in the fast suite."""

SOAK_SEEDS = 200
"""Of the soak suite: some 70 s of CPU, on all cores. `python tests/support/many_worlds.py FIRST LAST` runs others."""

FIRST_SOAK_SEED = 1000

MUTANT_SEEDS = range(40)
"""Looked at after the seed that is known to notice."""


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Thousands of faults are logged otherwise."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("seed", range(10))
def test_edges_agree_once_it_is_quiet(seed: int) -> None:
    """Whatever went wrong before; and nothing is chosen, counted or kept that must not be on the way."""
    world = run_world(seed, active_s=SHORT_S)
    assert world.requests and world.checks and world.faults


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_edges_agree_once_it_is_quiet_in_many_worlds(capsys: pytest.CaptureFixture[str]) -> None:
    """The same with hundreds of seeds and longer; what they met is printed, and how to replay a seed that failed."""
    outcomes = look_at_all(range(FIRST_SOAK_SEED, FIRST_SOAK_SEED + SOAK_SEEDS))
    with capsys.disabled():
        print(f"\n{report(outcomes)}")
    assert len(outcomes) == SOAK_SEEDS
    assert not [outcome.violation for outcome in outcomes if outcome.violation]


def test_the_same_seed_is_the_same_world() -> None:
    """Event by event: a failure can be looked at again."""
    first, second = run_world(3, active_s=SHORT_S), run_world(3, active_s=SHORT_S)
    assert list(first.trace) == list(second.trace)
    assert first.faults == second.faults and first.agreed_after_s == second.agreed_after_s


# That it can fail


def forget_evictions(self: EventCursor, index: PrefixIndex, slot: int, events: Any) -> bool:
    """Applies what is stored, whatever its number, and nothing else."""
    for key in events.stored:
        index.stored(slot, key)
    self.epoch = events.epoch
    return True


def repeat_registrations(self: Rounds, part: Part, kind: Kind, name: Any) -> None:
    """Repeats neither sessions nor conversations."""
    if kind is Kind.REPLICA:
        part.replicas.append(self._registrations.get(name))


def keep_older(self: Conversations, slot: int, born_ms: int, *, restarted: bool = False) -> list[Name]:
    """Drops what a replica had that left, and not what an engine had before it started again."""
    if not born_ms:
        return engine_started(self, slot, born_ms, restarted=restarted)
    self._born[slot] = born_ms
    return []


engine_started = Conversations.engine_started


def caught(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: Any, likely: int) -> str:
    """What the first world says in which one rule is broken."""
    monkeypatch.setattr(owner, name, mutant)
    for seed in (likely, *MUTANT_SEEDS):
        try:
            run_world(seed, active_s=SHORT_S)
        except Violation as violation:
            print(f"seed {seed} noticed")
            assert f"python tests/support/shared_world.py {seed}" in str(violation)
            return str(violation)
    pytest.fail(f"{len(MUTANT_SEEDS)} worlds did not notice")


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "likely", "says"),
    [
        pytest.param(EventCursor, "apply", forget_evictions, 0, "keys of", id="evictions are passed over"),
        pytest.param(
            RequestTable,
            "observe",
            lambda self, *_: None,
            3,
            "still reserved",
            id="a lost line is never made up for",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            Replica, "eligible", property(lambda self: not self.draining), 0, "chose", id="a dead replica is chosen"
        ),
        pytest.param(
            SharedDocuments,
            "merge",
            lambda self, document: None,
            4,
            "policy",
            id="a policy stays where it was put",
            marks=pytest.mark.soak,
        ),
        pytest.param(Rounds, "_add", repeat_registrations, 0, "lacks", id="what was lost is not repeated"),
        pytest.param(
            Peers, "is_alive", lambda self, edge: True, 0, "lacks", id="nobody answers for what the dead wrote"
        ),
        pytest.param(Peers, "end", lambda self, peer: None, 0, "counts", id="the dead go on counting"),
        pytest.param(
            Conversations,
            "engine_started",
            keep_older,
            0,
            "earlier incarnation",
            id="KV outlives its engine",
            marks=pytest.mark.sources,
        ),
        pytest.param(
            Sharing,
            "_failed_once",
            Sharing._failed,
            48,
            "shared state",
            id="one failure lasts for good",
            marks=pytest.mark.soak,
        ),
        pytest.param(Sharing, "_take_roster", lambda self, roster: None, 0, "does not know", id="nobody meets anybody"),
    ],
)
def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: Any, likely: int, says: str
) -> None:
    """The world is only worth what it catches: each rule is broken, and some seed must say so."""
    assert says in caught(monkeypatch, owner, name, mutant, likely)
