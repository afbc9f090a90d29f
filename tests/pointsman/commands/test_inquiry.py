"""Tables that fit, and raw answers."""

from __future__ import annotations

import sys

import pytest
from drawn import assert_fits, drawn
from rich.text import Text

from pointsman.commands.inquiry import WIDTH, facts, flowed_text, make_console, notes, state_text, table_of


def test_columns_without_a_value_are_left_out() -> None:
    """A dash is no value."""
    assert drawn(table_of(("a", "b", "c"), [("1", "-", ""), ("2", "-", "x")])).split() == ["a", "c", "1", "2", "x"]


def test_numbers_are_whole_whatever_the_width() -> None:
    """Names of one word give way, and text wraps."""
    rows = [("a" * 80, "123,456,789", "words " * 30)]
    text = drawn(table_of(("name", "number", "text"), rows, right=("number",), flexible="text"))
    assert_fits(text)
    assert "123,456,789" in text and "…" in text and text.count("words") == 30


def test_a_sentence_that_wraps_goes_on_below_its_beginning() -> None:
    """The mark stands alone."""
    (note,) = notes(["word " * 30])
    first, second = drawn(note).splitlines()
    assert first.startswith("! word") and second.startswith("  word")


def test_facts_without_a_value_have_no_line() -> None:
    """Nothing is shown of what is not known."""
    assert drawn(facts({"one": "1", "two": ""})) == "one   1\n"


def test_parts_flow_and_one_of_them_counts() -> None:
    """None is broken, and the one that counts is bold."""
    text = flowed_text(["a" * 60, "b" * 60], 100, strong="b" * 60)
    assert text.plain == "a" * 60 + "\n" + "b" * 60
    assert drawn(flowed_text([], 100)) == "\n"


def test_states_are_words_before_they_are_colours() -> None:
    """An unknown state has no colour."""
    assert state_text("ejected") == Text("ejected", style="bold red") and state_text("odd").style == ""


def test_a_pipe_gets_no_colours_and_a_hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the environment says how many."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert not sys.stdout.isatty()
    console = make_console()
    assert console.width == WIDTH and not console.is_terminal
    monkeypatch.setenv("COLUMNS", "60")
    assert make_console().width == 60
