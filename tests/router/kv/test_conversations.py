"""Which replica keeps whose KV."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from invariants import check
from kv_columns import make_columns, place

from pointsman.policies.candidates import NO_SLOT
from pointsman.router.kv.conversation import ELSEWHERE, PAUSING, Conversation
from pointsman.router.kv.conversations import UNDER_WAY_ELSEWHERE_S, Conversations


def answered(
    table: Conversations, session: str, *, tokens: int = 100, slot: int = 0, now_s: float, ended_s: float | None = None
) -> Conversation:  # fmt: skip
    """One turn, begun and ended."""
    known = place(table, session, slot, tokens=tokens, now_s=now_s)
    assert known is not None
    table.ended(known, now_s if ended_s is None else ended_s)
    check(table)
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
        check(table)

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
        assert len(table.by_name) == 1
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
        assert len(table.by_name) == 1
        check(table)

    def test_lone_requests_do_not_count_for_a_whole_ttl(self) -> None:
        """A hundred sessions of one request each: their KV is given up long before the first of them is forgotten."""
        columns = make_columns()
        table = Conversations(columns, ttl_s=60.0)
        for number in range(100):
            answered(table, f"s{number}", tokens=1000, now_s=number / 20)
        table.expire(6.0)
        assert (len(table.by_name), table.counts()[0]) == (100, 0)
        assert columns.signals.footprint[0] == 0
        check(table)

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
        assert (len(table.by_name), table.counts()[0]) == (1, 0)
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
        check(table)
        assert table.expire(55.0) == 1
        table.ended(known, 56.0)  # what the table let go is let go
        check(table)

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
        check(table)

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
        check(table)
        table.expire(UNDER_WAY_ELSEWHERE_S)
        assert columns.signals.footprint[1:3].tolist() == [0, 150]
        check(table)

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
            check(table)
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
            check(table)
            assert len(table.by_name) <= 3
            assert all(one.slot != NO_SLOT for one in table.by_name.values())
