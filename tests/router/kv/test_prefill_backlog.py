"""Prompt tokens in front of each replica."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invariants import check
from kv_columns import make_columns

from pointsman.router.kv.columns import PRIOR_BASE_MS, PRIOR_PER_TOKEN_MS
from pointsman.router.kv.prefill_backlog import GRACE_S, PrefillBacklog

PRIOR_MS_AT_1000 = PRIOR_BASE_MS + 1000 * PRIOR_PER_TOKEN_MS


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
        check(backlog)

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
            check(backlog)

    def test_released_entries_do_not_pile_up(self) -> None:
        """A thousand prompts, one after the other, on a replica that has long to report."""
        backlog = PrefillBacklog(make_columns())
        for _ in range(1000):
            backlog.release(backlog.add(0, 1000, 0.0, reports=True))
        assert len(backlog) == 0 and len(backlog._due) <= 65
