"""How long conversations pause, and when one is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.router.kv.idle_timeout import DOUBTFUL, MEMORY, Silence


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
