"""Reads PromQL far enough to say which metrics and labels an expression names. Not a checker of its grammar.

`read` gives the metrics with the labels of their matchers, and the labels of `by`, `on` and their like. Grafana's
variables inside ranges and matchers are let through; `fill_in` replaces them for a real Prometheus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<range>\[[^\]]*\])
    | (?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)
    | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){},=<>])
    """,
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_OPERATORS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass
class Expression:
    """What an expression names."""

    metrics: dict[str, set[str]] = field(default_factory=dict)
    """Metric -> labels its matchers use."""
    grouping: set[str] = field(default_factory=set)
    """Labels of `by`, `without`, `on`, `ignoring`, `group_left`, `group_right`."""


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and text of each token, spaces left out. Raises ValueError at what is none."""
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not PromQL at {text[at : at + 20]!r} in {text!r}")
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match.group()))
        at = match.end()
    return found


def read(text: str) -> Expression:
    """The metrics and labels `text` names. Raises ValueError when a bracket does not close."""
    expression = Expression()
    stream = tokens(text)
    at = 0
    while at < len(stream):
        kind, word = stream[at]
        following = stream[at + 1][1] if at + 1 < len(stream) else ""
        if kind != "word" or word.lower() in _OPERATORS:
            at += 1
        elif word in _GROUPING:
            at, inside = _inside(stream, at + 1, ")")
            expression.grouping |= {name for inner, name in inside if inner == "word"}
        elif following == "(" or following in _GROUPING:
            at += 1  # a function, or an aggregation that names its labels first
        else:
            labels = expression.metrics.setdefault(word, set())
            at += 1
            if following == "{":
                at, inside = _inside(stream, at, "}")
                labels |= {name for inner, name in inside if inner == "word"}
    return expression


def _inside(stream: list[tuple[str, str]], at: int, end: str) -> tuple[int, list[tuple[str, str]]]:
    """What stands between the bracket at `at` and `end`, and where it goes on."""
    close = next((n for n in range(at, len(stream)) if stream[n][1] == end), None)
    if close is None:
        raise ValueError(f"no {end} after {stream[at]}")
    return close + 1, stream[at + 1 : close]


def fill_in(text: str, *, rate: str = "1m", span: str = "5m") -> str:
    """Grafana's variables replaced: any edge, model, tenant and replica; `rate` and `span` are ranges."""
    for variable in ("$edge", "$model", "$tenant", "$replica"):
        text = text.replace(variable, ".*")
    return text.replace("$__rate_interval", rate).replace("$__range", span)
