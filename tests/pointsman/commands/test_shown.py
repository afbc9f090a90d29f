"""Numbers, moments and names as tables show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pointsman.commands.shown import (
    clock_time,
    day_and_time,
    fitted,
    flowed,
    ms,
    rate,
    share,
    short,
    since,
    span,
    state_and_why,
    whole,
)

NOW = datetime(2026, 11, 30, 12, 4, 31, 213_000, UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (999.6, "1.0k"),
        (1000, "1.0k"),
        (9_949, "9.9k"),
        (38_211, "38k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_240_000, "1.2M"),
        (7e12, "7,000G"),
    ],
)
def test_a_count_in_little_room(value: float | None, text: str) -> None:
    """At most two digits where a unit follows, or three."""
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 ms"), (2, "2 ms"), (4.23, "4.2 ms"), (9.97, "10 ms"), (58.4, "58 ms"), (1_039, "1,039 ms")],
)
def test_milliseconds_have_a_digit_only_where_it_says_something(value: float | None, text: str) -> None:
    """Below ten."""
    assert ms(value) == text


def test_ten_seconds_are_no_longer_milliseconds() -> None:
    """A person reads seconds."""
    assert ms(10_000) == "10.0 s" and ms(72_345) == "72.3 s"


def test_a_share_is_a_percentage() -> None:
    """Nothing and everything are exact."""
    assert [share(value) for value in (None, 0, 0.944, 0.9996, 1)] == ["-", "0 %", "94.4 %", "100.0 %", "100 %"]


def test_a_rate_has_a_digit_below_ten() -> None:
    """0.4 requests a second is not none."""
    assert [rate(value) for value in (None, 0, 0.42, 8.06, 812.3)] == ["-", "0", "0.4", "8.1", "812"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-3, "0 s"), (4.4, "4 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_a_duration_is_in_the_largest_unit_that_fits_twice(seconds: float | None, text: str) -> None:
    """119 s tells more than 2 min."""
    assert span(seconds) == text


def test_a_moment_is_shown_in_the_zone_of_the_reader() -> None:
    """With the zone where the day stands beside it."""
    zone = timezone(timedelta(hours=1))
    text = "2026-11-30T12:04:31.213Z"
    assert clock_time(text, zone) == "13:04:31.213"
    assert clock_time(text, zone, to_ms=False) == "13:04:31"
    assert day_and_time(text, zone) == "2026-11-30 13:04:31 +01:00"
    assert since(text, NOW + timedelta(minutes=12)) == "12 min"


def test_a_moment_that_is_none_is_absent() -> None:
    """Also where a router of another version sends something else."""
    for text in (None, "", "yesterday"):
        assert since(text, NOW) == clock_time(text, UTC) == day_and_time(text, UTC) == "-"


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    """Ids of one fleet often differ at the end alone."""
    assert fitted("qwen3-8b-replica-000001", 14) == "qwen3-8b-…0001"
    assert len(fitted("x" * 100, 14)) == 14
    assert fitted("chat-1", 14) == "chat-1" and fitted("", 14) == fitted(None, 14) == "-"


def test_parts_flow_into_lines_and_none_is_broken() -> None:
    """A part that is too long has a line of its own; an empty one has no room."""
    assert flowed(["aa", "", "bbb", "cccc"], 9) == ["aa   bbb", "cccc"]
    assert flowed(["a" * 20, "b"], 9) == ["a" * 20, "b"]
    assert flowed([], 9) == []


def test_a_whole_number_has_its_thousands_apart() -> None:
    """As people write it."""
    assert whole(38_211) == "38,211" and whole(None) == "-"


def test_a_reason_that_begins_with_the_state_is_not_told_twice() -> None:
    """Any other stands behind a colon."""
    assert state_and_why("ejected", "Ejected after 7 failed answers.") == "ejected after 7 failed answers."
    assert state_and_why("down", "The health check failed.") == "down: The health check failed."
    assert state_and_why("down", None) == "down"
