"""The form of benches that are run by themselves."""

from __future__ import annotations

import json

import pytest

from bench.form import by_turns, median_and_best, read_options, show


def test_options_have_the_types_of_their_defaults() -> None:
    """A list takes several values, a tuple those before the options, a flag none."""
    given = ["a", "b", "--rounds", "3", "--rates", "1", "2.5", "--per-s"]
    options = read_options("any", "Said.", given, parts=("x",), rounds=5, rates=[1.0], per_s=False, name="n")
    assert (options.parts, options.rounds, options.rates) == (["a", "b"], 3, [1.0, 2.5])
    assert (options.per_s, options.name, options.json) == (True, "n", False)
    assert read_options("any", "Said.", [], parts=("x",)).parts == ("x",)


def test_cases_take_turns() -> None:
    """Each is measured once a round."""
    order: list[str] = []

    def measure(case: str) -> float:
        order.append(case)
        return float(len(order))

    found = by_turns(2, {"a": lambda: measure("a"), "b": lambda: measure("b")})
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert median_and_best([3.0, 1.0, 2.126]) == (2.13, 1.0)


def test_figures_are_shown_with_their_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """In the first line for people, as keys of the document for programs."""
    show(False, {"us": 1}, ["a line"], numpy="2")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("machine ") and first.endswith("numpy 2") and second == "a line"
    show(True, {"us": 1}, ["a line"])
    assert json.loads(capsys.readouterr().out)["us"] == 1
