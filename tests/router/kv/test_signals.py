"""The columns of KV signals and their writers: backlogs, prefill times, conversations, token ratio."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.fleet.load import LoadTable
from pointsman.router.kv.columns import PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS, KVColumns
from pointsman.router.kv.conversation import ELSEWHERE, PAUSING, Conversation
from pointsman.router.kv.conversations import UNDER_WAY_ELSEWHERE_S, Conversations
from pointsman.router.kv.idle_timeout import DOUBTFUL, MEMORY, Silence
from pointsman.router.kv.prefill_backlog import GRACE_S, PrefillBacklog
from pointsman.router.kv.prefill_times import PrefillTimes
from pointsman.router.kv.token_ratio import TokenRatio

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
        first = backlog.add(1, 1000, 0.0, reports=True)
        backlog.add(1, 500, 0.0, reports=True)
        assert columns.signals.prefill_ms[1] == pytest.approx(PRIOR_BASE_MS + 1500 * PRIOR_PER_TOKEN_MS)
        assert backlog.release(first)
        assert not backlog.release(first)
        assert columns.signals.waiting[1] == 500

    def test_silence_ends_it_when_the_prefill_should_be_over(self) -> None:
        """One prompt after the other on a plain endpoint; later where first tokens are reported, and counted."""
        columns = make_columns()
        backlog = PrefillBacklog(columns)
        backlog.add(0, 1000, 0.0, reports=False)
        backlog.add(0, 1000, 0.0, reports=False)
        backlog.add(1, 1000, 0.0, reports=True)
        each_s = PRIOR_MS_AT_1000 / 1000
        for now_s, waiting in ((each_s - 0.001, [2000, 1000]), (each_s, [1000, 1000]), (2 * each_s, [0, 1000])):
            backlog.expire(now_s)
            assert columns.signals.waiting[:2].tolist() == waiting
        backlog.expire(GRACE_S + 2 * each_s)
        assert (len(backlog), backlog.decayed) == (0, 3)

    def test_who_reports_late_first_tokens_is_given_as_much_more(self) -> None:
        """An engine whose KV is full lets prompts wait: the last first token there came 30 s late, so those behind may
        be as late and still count. They end then, or when the replica catches up and they are silent."""
        each_s = PRIOR_MS_AT_1000 / 1000
        for reported_s, ends_s in ((30.0 + each_s, 30.0 + 3 * each_s), (0.0, 3 * each_s)):
            columns = make_columns()
            backlog = PrefillBacklog(columns)
            first, second, _ = (backlog.add(0, 1000, 0.0, reports=True) for _ in range(3))
            backlog.release(first, first_s=30.0 + each_s)
            backlog.release(second, first_s=reported_s + each_s)
            overdue_s = ends_s + GRACE_S + 3 * each_s
            backlog.expire(overdue_s - 0.001)
            assert columns.signals.waiting[0] == 1000
            backlog.expire(overdue_s)
            assert (columns.signals.waiting[0], backlog.decayed) == (0, 1)

    def test_one_replica_s_lateness_is_not_another_s(self) -> None:
        """Nor that of the one that takes the slot after it."""
        each_s = PRIOR_MS_AT_1000 / 1000
        backlog = PrefillBacklog(make_columns())
        backlog.release(backlog.add(0, 1000, 0.0, reports=True), first_s=60.0)
        backlog.clear_slot(0)
        for slot in (0, 1):
            backlog.add(slot, 1000, 60.0, reports=True)
        backlog.expire(60.0 + GRACE_S + 2 * each_s)
        assert (len(backlog), backlog.decayed) == (0, 2)

    def test_an_end_without_a_first_token_says_nothing_of_lateness(self) -> None:
        """A client that left after a minute did not get its token then."""
        each_s = PRIOR_MS_AT_1000 / 1000
        backlog = PrefillBacklog(make_columns())
        left, _ = (backlog.add(0, 1000, 0.0, reports=True) for _ in range(2))
        backlog.release(left)
        backlog.expire(GRACE_S + 4 * each_s)
        assert len(backlog) == 0

    def test_a_slot_that_is_cleared_has_nothing_waiting(self) -> None:
        """Late news of its requests change nothing."""
        backlog = PrefillBacklog(make_columns())
        entry = backlog.add(0, 1000, 0.0, reports=True)
        backlog.clear_slot(0)
        assert not backlog.release(entry)
        backlog.validate()

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(1, 999), st.booleans()), max_size=60))
    def test_column_and_entries_agree(self, steps: list[tuple[int, int, int, bool]]) -> None:
        """Whatever is added, released, cleared or overdue; what was released does not pile up."""
        backlog = PrefillBacklog(make_columns())
        entries = {}
        for at, (request, slot, tokens, adds) in enumerate(steps):
            if adds:
                entries[request] = backlog.add(slot, tokens, at / 100, reports=bool(tokens % 2))
            elif request in entries:
                backlog.release(entries[request], first_s=at / 100 if tokens % 3 else -1.0)
            elif tokens % 5 == 0:
                backlog.clear_slot(slot)
            backlog.expire(at / 100)
            backlog.validate()

    def test_released_entries_do_not_pile_up(self) -> None:
        """A thousand prompts, one after the other, on a replica that has long to report."""
        backlog = PrefillBacklog(make_columns())
        for _ in range(1000):
            backlog.release(backlog.add(0, 1000, 0.0, reports=True))
        assert len(backlog) == 0 and len(backlog._due) <= 65


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


def answered(
    table: Conversations, session: str, *, tokens: int = 100, slot: int = 0, now_s: float, ended_s: float | None = None
) -> Conversation:  # fmt: skip
    """One turn, begun and ended."""
    known = place(table, session, slot, tokens=tokens, now_s=now_s)
    assert known is not None
    table.ended(known, now_s if ended_s is None else ended_s)
    table.validate()
    return known


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
        known = place(table, "x", 0, tokens=4000)
        assert known is not None
        table.told(known, 0, 16_000, 3900, 250)
        assert columns.signals.footprint[0] == 4150
        place(table, "x", 0, tokens=5000)
        table.told(known, 0, 16_000, 3900, 250)
        table.told(known, 1, 20_000, 1, 1)
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

    def test_the_silent_are_forgotten(self) -> None:
        """Longest silence first; a turn renews, and a request under way is no silence."""
        columns = make_columns()
        table = Conversations(columns, ttl_s=10.0)
        place(table, "long", 0, tokens=1000, now_s=0.0)
        for at, session in enumerate(("x", "y", "z")):
            answered(table, session, now_s=float(at))
        answered(table, "x", now_s=3.0)
        assert [table.expire(12.0), table.expire(12.5), table.expire(13.0)] == [2, 0, 1]
        assert columns.signals.footprint[0] == 1000
        assert len(table) == 1
        table.validate()

    def test_lone_requests_do_not_count_for_a_whole_ttl(self) -> None:
        """A hundred sessions of one request each: their KV is given up long before the first of them is forgotten."""
        columns = make_columns()
        table = Conversations(columns, ttl_s=60.0)
        for number in range(100):
            answered(table, f"s{number}", tokens=1000, now_s=number / 20)
        table.expire(6.0)
        assert (len(table), table.live) == (100, 0)
        assert columns.signals.footprint[0] == 0
        table.validate()

    def test_who_is_likely_over_no_longer_counts(self) -> None:
        """Three times in four a conversation went on, after 2 s, and then no more. Silent for 3 s another is dormant:
        its home is known, its KV is nobody's concern until it goes on."""
        columns = make_columns()
        table = Conversations(columns, ttl_s=60.0)
        for number in range(12):
            for turn in range(4):
                answered(table, f"s{number}", now_s=100.0 * number + 2.0 * turn)
            table.expire(100.0 * number + 99.0)
        dormant = answered(table, "d", tokens=700, now_s=2000.0)
        table.expire(2001.5)
        assert columns.signals.footprint[0] == 700
        table.expire(2003.0)
        assert (columns.signals.footprint[0], dormant.live, dormant.counted_tokens) == (0, False, 0)
        assert (len(table), table.live) == (1, 0)
        assert table.find("d", (), -1) is dormant
        answered(table, "d", tokens=800, now_s=2030.0)
        assert (columns.signals.footprint[0], dormant.live) == (800, True)

    def test_parallel_requests_end_one_by_one(self) -> None:
        """A conversation is silent once the last of them ended."""
        table = Conversations(make_columns(), ttl_s=5.0)
        known = place(table, "x", 0, tokens=100, now_s=0.0)
        assert place(table, "x", 0, tokens=100, now_s=1.0) is known and known is not None
        table.ended(known, 2.0)
        assert table.expire(50.0) == 0
        table.ended(known, 50.0)
        table.validate()
        assert table.expire(55.0) == 1
        table.ended(known, 56.0)  # what the table let go is let go
        table.validate()

    def test_the_replica_that_served_is_the_home(self) -> None:
        """A refused connection went to the second choice: the KV is there, the head included."""
        columns = make_columns()
        table = Conversations(columns)
        known = place(table, "x", 0, tokens=4000, resident=3000)
        assert known is not None
        table.served_by(known, known.stands, 2)
        assert columns.signals.footprint[:3].tolist() == [0, 0, 4000]
        earlier = known.stands
        assert place(table, "x", 2, tokens=4500) is known
        table.served_by(known, earlier, 1)  # the later turn says where it lives
        assert known.slot == 2
        table.validate()

    def test_another_edge_s_request_keeps_it_live(self) -> None:
        """As long as that edge may be believed; its end starts the silence, and what goes on there is learned from."""
        columns = make_columns()
        table = Conversations(columns, ttl_s=300.0)
        table.silence.ended()

        def hear(session: str, slot: int, *, tokens: int, turn: int, seen_s: float, under_way: bool) -> None:
            phase = ELSEWHERE if under_way else PAUSING
            word = Conversation(session, NO_SLOT, tokens, 0, 400, 0, -1, 0, seen_s, turn, phase=phase, home=f"r{slot}")
            assert table.learn(word, slot)

        hear("x", 1, tokens=100, turn=1, seen_s=0.0, under_way=True)
        hear("y", 1, tokens=30, turn=1, seen_s=0.0, under_way=True)
        table.expire(UNDER_WAY_ELSEWHERE_S - 1)
        assert columns.signals.footprint[1] == 130
        hear("x", 1, tokens=110, turn=1, seen_s=20.0, under_way=False)
        table.expire(20.0)
        assert columns.signals.footprint[1] == 30
        hear("x", 2, tokens=150, turn=2, seen_s=22.0, under_way=True)
        assert columns.signals.footprint[1:3].tolist() == [30, 150]
        table.validate()
        table.expire(UNDER_WAY_ELSEWHERE_S)
        assert columns.signals.footprint[1:3].tolist() == [0, 150]
        table.validate()

    @given(
        st.lists(
            st.tuples(st.sampled_from(["", "x", "y"]), st.integers(0, 2), st.integers(1, 5), st.integers(0, 900)),
            max_size=50,
        )
    )
    def test_column_and_table_agree(self, steps: list[tuple[str, int, int, int]]) -> None:
        """Whatever is placed, told, ended, moved, cleared and bounded."""
        table = Conversations(make_columns(), ttl_s=20.0, max_conversations=3)
        under_way: list[Conversation] = []
        for at, (session, slot, depth, tokens) in enumerate(steps):
            keys = tuple(range(10 * slot, 10 * slot + depth))
            known = place(table, session, slot, keys, tokens=tokens, resident=tokens // 2, now_s=float(at))
            table.validate()
            if known is not None:
                under_way.append(known)
                if tokens % 3 == 0:
                    table.told(known, slot, 4 * tokens, tokens, 7)
                if tokens % 5 == 0:
                    table.served_by(known, known.stands, (slot + 1) % 3)
            if tokens % 2 == 0 and under_way:
                table.ended(under_way.pop(tokens % len(under_way)), float(at))
            if tokens % 7 == 0:
                table.clear_slot(slot)
            table.expire(float(at))
            table.validate()
            assert len(table) <= 3
            assert all(one.slot != NO_SLOT for one in table._known.values())


class TestSilence:
    """When to stop waiting for a conversation."""

    def test_nobody_is_given_up_before_anybody_ended(self) -> None:
        """With nothing known the ttl decides."""
        silence = Silence(60.0)
        assert silence.patience_s == 60.0
        silence.went_on(1.0)
        assert silence.patience_s == 60.0

    def test_the_silent_stand_for_ends_until_one_was_seen(self) -> None:
        """A hundred are silent for up to 10 s. While nobody went on they are taken for over; once 200 did, after 2 s,
        silence of 2 s is worth waiting for and longer is not."""
        silence = Silence(60.0)
        silence.wait(lambda silent_s: 100 if silent_s <= 10.0 else 0)
        assert silence.patience_s == 0.0
        for _ in range(200):
            silence.went_on(2.0)
        assert silence.patience_s == pytest.approx(2.0, rel=0.1)
        silence.ended()
        assert silence.patience_s == pytest.approx(2.0, rel=0.1)
        silence.wait(lambda silent_s: 10_000)
        assert silence.saw_end
        assert silence.patience_s == pytest.approx(2.0, rel=0.1)

    def test_a_handful_of_silent_conversations_says_nothing(self) -> None:
        """They may all be pausing."""
        silence = Silence(60.0)
        silence.wait(lambda silent_s: DOUBTFUL)
        assert silence.patience_s == 60.0

    def test_what_silence_means_is_known_after_some_of_it(self) -> None:
        """As many pauses and ends as are no doubt, or more silent conversations than that."""
        for seen in ("pauses", "ends", "silent"):
            silence = Silence(60.0)
            assert not silence.is_known
            for _ in range(DOUBTFUL):
                assert not silence.is_known
                if seen == "pauses":
                    silence.went_on(1.0)
                elif seen == "ends":
                    silence.ended()
            silence.wait(lambda silent_s: DOUBTFUL + 1)
            assert silence.is_known

    def test_where_every_request_stands_alone_nobody_is_waited_for(self) -> None:
        """One conversation ended and none ever went on."""
        silence = Silence(60.0)
        silence.ended()
        assert silence.patience_s == 0.0

    def test_patience_ends_where_as_many_end_as_go_on(self) -> None:
        """Pauses of 1 to 100 s, five a second, and 50 ends: after 90 s of silence 50 of the pauses are left."""
        silence = Silence(120.0)
        for pause_s in range(1, 101):
            for _ in range(5):
                silence.went_on(float(pause_s))
        for _ in range(50):
            silence.ended()
        assert silence.patience_s == pytest.approx(90.0, rel=0.1)

    def test_follows_a_workload_that_changes(self) -> None:
        """People took over from agents: within two memories their pauses rule."""
        silence = Silence(120.0)
        for pause_s in (1.0, 30.0):
            for at in range(2 * int(MEMORY)):
                silence.went_on(pause_s)
                if at % 10 == 0:
                    silence.ended()
        assert silence.patience_s == pytest.approx(30.0, rel=0.1)

    @given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=60), st.floats(0.01, 1e5))
    def test_patience_is_never_longer_than_the_ttl(self, seen: list[float | None], ttl_s: float) -> None:
        """Whatever is seen."""
        silence = Silence(ttl_s)
        for pause_s in seen:
            if pause_s is None:
                silence.ended()
            else:
                silence.went_on(pause_s)
        assert 0.0 <= silence.patience_s <= ttl_s


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
