"""Turns of conversations that nobody answered: all is as it was, whatever else of the conversation is under way."""

from __future__ import annotations

import random

import pytest
from invariants import check

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.conversations import Conversations

SLOTS = 3


class Table:
    """Conversations at home with three replicas."""

    def __init__(self) -> None:
        self.columns = KVColumns()
        self.conversations = Conversations(self.columns)
        for slot in range(SLOTS):
            self.columns.add_slot(slot)
            self.conversations.add_slot(slot, f"r{slot}")

    def turn(
        self, slot: int, tokens: int, *, session: str = "s", keys: tuple[int, ...] = ()
    ) -> tuple[Conversation, int]:
        """A turn begins: the conversation, and the turn's number."""
        table = self.conversations
        known = table.place(
            table.find(session, keys, len(keys) - 1), session, slot, keys,
            tokens=tokens, resident=0, prompt_bytes=4 * tokens, now_s=0.0,
        )  # fmt: skip
        assert known is not None
        check(table)
        return known, known.stands

    def over(self, turn: tuple[Conversation, int], *, served: bool, now_s: float = 1.0) -> None:
        self.conversations.ended(turn[0], now_s, turn[1], served=served)
        check(self.conversations)

    @property
    def footprint(self) -> list[float]:
        return self.columns.signals.footprint[:SLOTS].tolist()


def kept(known: Conversation) -> tuple[object, ...]:
    """All of a conversation that a turn nobody answers leaves as it was."""
    where = known.name, known.slot, known.home, known.born_ms, known.tokens, known.shared, known.stands
    return *where, known.prompt_bytes, known.prompt_tokens, known.tail_at, known.tail


def test_a_first_turn_counts_while_it_is_pending() -> None:
    """Requests that come next find the room taken; refused, it leaves nothing."""
    table = Table()
    first = table.turn(0, 1000)
    assert table.footprint == [1000, 0, 0]
    table.over(first, served=False)
    assert table.footprint == [0, 0, 0]
    assert table.conversations.by_name.get("s") is None


def test_a_later_turn_that_is_refused_leaves_the_home() -> None:
    """It would have gone to another replica with ten times the tokens: home and length are those of the answer."""
    table = Table()
    first = table.turn(0, 1000)
    table.over(first, served=True)
    before = kept(first[0])
    pending = table.turn(2, 10_000)
    rank = pending[0].rank
    assert table.footprint == [0, 0, 10_000]
    table.over(pending, served=False)
    assert table.footprint == [1000, 0, 0]
    assert kept(first[0]) == before
    assert first[0].rank > rank


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_of_two_turns_under_way_the_answered_one_stays(first_ends_first: bool) -> None:
    """The first of a conversation is answered, the second is not, in either order."""
    table = Table()
    first, second = table.turn(0, 1000), table.turn(1, 5000)
    order = [(first, True), (second, False)]
    for turn, served in order if first_ends_first else order[::-1]:
        table.over(turn, served=served)
    assert table.footprint == [1000, 0, 0]


def test_of_two_turns_under_way_the_refused_one_goes() -> None:
    """The second is answered and describes the conversation; that the first was refused changes nothing."""
    table = Table()
    first, second = table.turn(0, 1000), table.turn(1, 5000)
    table.over(second, served=True)
    table.over(first, served=False)
    assert table.footprint == [0, 5000, 0]


def test_two_turns_that_are_refused_leave_no_home() -> None:
    """In the order they came or the other way round."""
    for order in ((0, 1), (1, 0)):
        table = Table()
        turns = table.turn(0, 1000), table.turn(1, 5000)
        for at in order:
            table.over(turns[at], served=False)
        assert table.footprint == [0, 0, 0]
        assert len(table.conversations.by_name) == 0


def test_a_conversation_without_session_gets_its_name_back() -> None:
    """It is named by the end of its prompt; the prompt that was refused is not its end."""
    table = Table()
    first = table.turn(0, 400, session="", keys=(1, 2, 3, 4))
    table.over(first, served=True)
    table.over(table.turn(0, 600, session="", keys=(1, 2, 3, 5, 6, 7)), served=False)
    assert first[0].name == 3
    assert table.conversations.find("", (1, 2, 3, 4), 3) is first[0]


def test_a_home_that_left_meanwhile_is_no_home() -> None:
    """The answered turn was on a replica that is no longer registered, or restarted since."""
    for event in ("left", "restarted"):
        table = Table()
        if event == "restarted":
            table.conversations.engine_started(0, 1000)
        table.over(table.turn(0, 1000), served=True)
        pending = table.turn(1, 2000)
        if event == "left":
            table.conversations.clear_slot(0)
        else:
            table.conversations.engine_started(0, 2000, restarted=True)
        table.over(pending, served=False)
        assert table.footprint == [0, 0, 0]
        assert pending[0].slot == NO_SLOT


def test_the_home_to_go_back_to_is_the_replica_that_answered() -> None:
    """The first turn was answered elsewhere than it was placed; the second, of which that says nothing, is refused."""
    table = Table()
    first, second = table.turn(0, 1000), table.turn(0, 5000)
    table.conversations.answered(*first)
    table.conversations.served_by(*first, 2)
    assert table.footprint == [5000, 0, 0]
    table.over(first, served=True)
    table.over(second, served=False)
    assert table.footprint == [0, 0, 1000]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_ends_leaves_what_was_answered(seed: int) -> None:
    """Random turns of a few conversations: once all are over, those answered last count, and nothing else does."""
    rng = random.Random(seed)
    table, under_way = Table(), list[tuple[Conversation, int]]()
    answered: dict[str, tuple[int, int, int]] = {}
    placed: dict[tuple[str, int], tuple[int, int]] = {}
    for _ in range(300):
        if under_way and rng.random() < 0.55:
            turn = under_way.pop(rng.randrange(len(under_way)))
            served = rng.random() < 0.5
            name = str(turn[0].name)
            if served and turn[0].slot != NO_SLOT and turn[1] > answered.get(name, (0, 0, 0))[0]:
                answered[name] = (turn[1], *placed[name, turn[1]])
            table.over(turn, served=served)
        else:
            session, slot, tokens = f"s{rng.randrange(3)}", rng.randrange(SLOTS), rng.randrange(1, 5000)
            turn = table.turn(slot, tokens, session=session)
            placed[session, turn[1]] = (slot, tokens)
            under_way.append(turn)
    for turn in under_way:
        table.over(turn, served=False)
    for name, (_, slot, tokens) in answered.items():
        known = table.conversations.by_name.get(name)
        assert known is not None, name
        assert (known.slot, known.tokens) == (slot, tokens)
    assert all(str(known.name) in answered for known in table.conversations.by_name.values())
