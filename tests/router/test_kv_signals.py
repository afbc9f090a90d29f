"""The columns of KV signals and their writers: backlogs, prefill times, conversations, token ratio."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import NO_SLOT
from router.state.backlog import GRACE_S, PrefillBacklog
from router.state.conversations import Conversation, Conversations
from router.state.kv_columns import PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS, KVColumns
from router.state.load import LoadTable
from router.state.prefill_times import PrefillTimes
from router.state.token_ratio import TokenRatio

PRIOR_MS_AT_1000 = PRIOR_BASE_MS + 1000 * PRIOR_PER_TOKEN_MS


def make_columns(slots: int = 3) -> KVColumns:
    columns = KVColumns()
    for slot in range(slots):
        columns.add_slot(slot)
    return columns


class TestColumns:
    """Derived columns follow in place, and tables stay equally long."""

    def test_usage_counts_replicas_of_known_size(self) -> None:
        """60 of 200 tokens, the unknown one left out; a slot that is taken over starts anew."""
        columns = make_columns()
        columns.set_capacity(0, 150)
        columns.set_capacity(1, 50)
        columns.add_footprint(0, 60)
        columns.add_footprint(2, 1000)
        assert columns.signals.usage == pytest.approx(0.3)
        assert columns.signals.fill[:3].tolist() == [0.4, 0.0, 0.0]
        columns.clear_slot(0)
        assert columns.signals.usage == 0.0

    def test_tables_grow_alike(self) -> None:
        """Policies add the load table's columns to these."""
        columns, load = KVColumns(), LoadTable()
        for slot in (0, 63, 64, 500, 127, 1001):
            columns.add_slot(slot)
            load.add_slot(slot)
            assert len(columns.signals.waiting) == len(columns.signals.fill) == len(load.in_flight)

    def test_growing_keeps_what_is_known(self) -> None:
        """Capacity, times and backlog survive."""
        columns = make_columns(1)
        columns.set_capacity(0, 100)
        columns.set_times(0, 1.0, 2.0, 3.0)
        columns.add_waiting(0, 10)
        columns.add_slot(900)
        assert (columns.signals.capacity[0], columns.signals.prefill_ms[0]) == (100, 1 + 20 + 300)


class TestBacklog:
    """Tokens wait until their first token is known, or should have come."""

    def test_a_first_token_releases_what_was_put(self) -> None:
        """Once; the time the rest takes follows."""
        columns = make_columns()
        backlog = PrefillBacklog(columns)
        backlog.add("a", 1, 1000, 0.0, reports=True)
        backlog.add("b", 1, 500, 0.0, reports=True)
        assert columns.signals.prefill_ms[1] == pytest.approx(PRIOR_BASE_MS + 1500 * PRIOR_PER_TOKEN_MS)
        assert backlog.release("a")
        assert not backlog.release("a")
        assert columns.signals.waiting[1] == 500

    def test_silence_ends_it_when_the_prefill_should_be_over(self) -> None:
        """One prompt after the other on a plain endpoint; later where first tokens are told, and counted."""
        columns = make_columns()
        backlog = PrefillBacklog(columns)
        backlog.add("a", 0, 1000, 0.0, reports=False)
        backlog.add("b", 0, 1000, 0.0, reports=False)
        backlog.add("c", 1, 1000, 0.0, reports=True)
        each_s = PRIOR_MS_AT_1000 / 1000
        for now_s, waiting in ((each_s - 0.001, [2000, 1000]), (each_s, [1000, 1000]), (2 * each_s, [0, 1000])):
            backlog.expire(now_s)
            assert columns.signals.waiting[:2].tolist() == waiting
        backlog.expire(GRACE_S + 2 * each_s)
        assert (len(backlog), backlog.decayed) == (0, 3)

    def test_a_slot_that_is_cleared_has_nothing_waiting(self) -> None:
        """Late news of its requests change nothing."""
        columns = make_columns()
        backlog = PrefillBacklog(columns)
        backlog.add("a", 0, 1000, 0.0, reports=True)
        backlog.clear_slot(0)
        assert not backlog.release("a")
        backlog.validate()

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(1, 999), st.booleans()), max_size=60))
    def test_column_and_entries_agree(self, steps: list[tuple[int, int, int, bool]]) -> None:
        """Whatever is added again, released, bounded or overdue."""
        backlog = PrefillBacklog(make_columns(), max_entries=5)
        for at, (request, slot, tokens, adds) in enumerate(steps):
            if adds:
                backlog.add(f"r{request}", slot, tokens, at / 100, reports=bool(tokens % 2))
            else:
                backlog.release(f"r{request}")
            backlog.expire(at / 100)
            backlog.validate()
            assert len(backlog) <= 5


class TestPrefillTimes:
    """T(x) is what replicas show it to be."""

    @pytest.mark.parametrize(
        ("base", "linear", "square"),
        [
            pytest.param(16.5, 0.01518, 4.2e-7, id="large dense model"),
            pytest.param(5.0, 0.002, 0.0, id="small model"),
            pytest.param(60.0, 0.2, 1e-6, id="slow machine"),
        ],
    )
    def test_learns_a_replica_from_noisy_observations(self, base: float, linear: float, square: float) -> None:
        """A tenth of noise and one stall in twenty; within a tenth of the truth where it was seen."""
        columns, dice = make_columns(), random.Random(1)
        times = PrefillTimes(columns)
        for _ in range(300):
            x = int(dice.lognormvariate(7, 1.2)) + 1
            took = (base + linear * x + square * x * x) * dice.uniform(0.9, 1.1)
            times.observe(1, x, took * 20 if dice.random() < 0.05 else took)
        for x in (200, 1000, 5000, 20_000):
            assert columns.time_ms(1, x) == pytest.approx(base + linear * x + square * x * x, rel=0.15)
        assert columns.time_ms(0, 1000) == pytest.approx(PRIOR_MS_AT_1000)

    def test_one_observation_moves_it_and_does_not_own_it(self) -> None:
        """Between the prior and what was seen."""
        columns = make_columns()
        PrefillTimes(columns).observe(0, 1000, 400.0)
        assert PRIOR_MS_AT_1000 < columns.time_ms(0, 1000) < 400

    def test_follows_a_replica_that_changes(self) -> None:
        """Three times slower from one moment on: a few hundred requests later it is known."""
        columns, dice = make_columns(), random.Random(2)
        times = PrefillTimes(columns)
        for slowness in (1, 3):
            for _ in range(400):
                x = dice.randrange(100, 9000)
                times.observe(0, x, slowness * (20 + 0.02 * x))
        assert columns.time_ms(0, 4000) == pytest.approx(300, rel=0.1)

    @given(st.lists(st.tuples(st.integers(-5, 200_000), st.floats(-10, 1e7)), max_size=80))
    def test_never_falls_whatever_is_reported(self, observed: list[tuple[int, float]]) -> None:
        """More tokens never take less time, and time is never negative."""
        columns = make_columns()
        times = PrefillTimes(columns)
        for tokens, took_ms in observed:
            times.observe(0, tokens, took_ms)
        predicted = [columns.time_ms(0, x) for x in (1, 10, 1000, 10_000, 200_000)]
        assert predicted[0] > 0
        assert predicted == sorted(predicted)


def place(
    table: Conversations, session: str, slot: int, keys: tuple[int, ...] = (), *, tokens: int, resident: int = 0,
    now_s: float = 0.0,
) -> Conversation | None:  # fmt: skip
    known = table.find(session, keys, len(keys) - 1)
    return table.place(
        known, session, slot, keys, tokens=tokens, resident=resident, prompt_bytes=4 * tokens, now_s=now_s
    )


class TestConversations:
    """Who keeps whose KV."""

    def test_shared_heads_count_once(self) -> None:
        """The first brings the system prompt of 3,000; the second brings only what is its own."""
        columns = make_columns()
        table = Conversations(columns)
        place(table, "x", 0, tokens=4000)
        place(table, "y", 0, tokens=4500, resident=3000)
        assert columns.signals.footprint[0] == 5500
        place(table, "y", 0, tokens=5000, resident=4500)
        assert columns.signals.footprint[0] == 6000
        table.validate()

    def test_a_conversation_that_moves_takes_its_share_along(self) -> None:
        """Nothing stays where it was; where it goes others may hold its head."""
        columns = make_columns()
        table = Conversations(columns)
        place(table, "x", 0, tokens=4000)
        place(table, "x", 1, tokens=4200, resident=1000)
        assert columns.signals.footprint[:2].tolist() == [0, 3200]

    def test_the_engine_s_count_replaces_the_guess(self) -> None:
        """Prompt and answer, unless a later request of the conversation is under way."""
        columns = make_columns()
        table = Conversations(columns)
        place(table, "x", 0, tokens=4000)
        table.told("x", 0, 16_000, 3900, 250)
        assert columns.signals.footprint[0] == 4150
        place(table, "x", 0, tokens=5000)
        table.told("x", 0, 16_000, 3900, 250)
        table.told("x", 1, 20_000, 1, 1)
        table.told("nobody", 0, 1, 1, 1)
        assert columns.signals.footprint[0] == 5000

    def test_without_a_session_the_prompt_s_end_is_the_name(self) -> None:
        """The next prompt contains it; one that parts before it is another conversation."""
        table = Conversations(make_columns())
        place(table, "", 0, (1, 2, 3, 4), tokens=400)
        found = table.find("", (1, 2, 3, 5, 6, 7), 2)
        assert found is not None and found.slot == 0
        assert table.find("", (1, 2, 9), 1) is None
        place(table, "", 1, (1, 2, 3, 5, 6, 7), tokens=600)
        assert len(table) == 1
        assert place(table, "", 0, (), tokens=5) is None

    def test_the_silent_are_no_longer_live(self) -> None:
        """Least recently seen first; a turn renews."""
        columns = make_columns()
        table = Conversations(columns)
        for at, session in enumerate(("x", "y", "z")):
            place(table, session, 0, tokens=100, now_s=float(at))
        place(table, "x", 0, tokens=100, now_s=3.0)
        assert table.expire(12.0, 10.0) == 2 - 1
        assert table.expire(12.5, 10.0) == 1
        assert columns.signals.footprint[0] == 100

    @given(
        st.lists(
            st.tuples(st.sampled_from(["", "x", "y"]), st.integers(0, 2), st.integers(1, 5), st.integers(0, 900)),
            max_size=50,
        )
    )
    def test_column_and_table_agree(self, steps: list[tuple[str, int, int, int]]) -> None:
        """Whatever is placed, told, cleared and bounded."""
        table = Conversations(make_columns(), max_conversations=3)
        for session, slot, depth, tokens in steps:
            keys = tuple(range(10 * slot, 10 * slot + depth))
            known = place(table, session, slot, keys, tokens=tokens, resident=tokens // 2)
            table.validate()
            if known is not None and tokens % 3 == 0:
                table.told(known.name, slot, 4 * tokens, tokens, 7)
            if tokens % 7 == 0:
                table.clear_slot(slot)
            table.validate()
            assert len(table) <= 3
            assert all(one.slot != NO_SLOT for one in table._known.values())


def test_the_ratio_is_learned_for_each_model_and_ignores_images() -> None:
    """Text moves it, a body of 300 bytes a token does not."""
    ratio = TokenRatio()
    ratio.observe("m", 3000, 1000)
    assert (ratio.bytes_per_token("m"), ratio.bytes_per_token("other")) == (3.0, 4.0)
    ratio.observe("m", 300_000, 1000)
    ratio.observe("m", 300, 0)
    assert ratio.bytes_per_token("m") == 3.0
    for _ in range(200):
        ratio.observe("m", 5000, 1000)
    assert ratio.bytes_per_token("m") == pytest.approx(5.0, rel=0.01)
