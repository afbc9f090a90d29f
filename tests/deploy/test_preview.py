"""Pictures of the dashboards, drawn from any source of series."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from deploy.grafana.source.boards import BOARDS
from deploy.grafana.source.model import Board, Query
from deploy.grafana.source.preview import Line, Span, draw, shown

SPAN = Span(1000.0, 1600.0)


class Waves:
    """A source in which each query has two series, one of them with a hole."""

    span = SPAN

    def lines(self, query: Query) -> list[Line]:
        times = [SPAN.begin_s + 10 * step for step in range(61)]
        whole = Line("a <b> & c", [(at, 1 + math.sin(at / 60)) for at in times])
        holed = Line(query.legend, [(at, math.nan if at < 1300 else 2.0) for at in times])
        return [whole, holed]

    def marks(self) -> list[float]:
        return [1200.0]


class Nothing:
    """A source without a series."""

    span = SPAN

    def lines(self, query: Query) -> list[Line]:
        return []

    def marks(self) -> list[float]:
        return []


def words(svg: str) -> list[str]:
    """All texts of a picture; ParseError when it is none."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_is_drawn(board: Board) -> None:
    """With its title, as far as there is room, whatever its kind."""
    found = words(draw(board, Waves()))
    for panel in board.panels():
        assert any(text.rstrip("…") and panel.title.startswith(text.rstrip("…")) for text in found), panel.title
    assert "NaN" not in draw(board, Waves())


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_panel_without_data_says_what_it_waits_for(board: Board) -> None:
    """Or only that there is none."""
    found = words(draw(board, Nothing()))
    assert sum(text.startswith("no data") for text in found) == len(list(board.panels()))
    waits = [query.waits_for for panel in board.panels() if panel.kind != "stat" for query in panel.queries]
    assert any("waits for" in text for text in found) == any(waits)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.125, "percentunit", "12.5 %"),
        (0.0421, "s", "42.1 ms"),
        (2e-5, "s", "20 µs"),
        (12.0, "s", "12 s"),
        (1_850_000, "short", "1.85 M"),
        (14_500, "Bps", "14.5 kB/s"),
        (31.5, "reqps", "31.5 req/s"),
        (math.nan, "s", "no data"),
    ],
)
def test_values_have_their_unit(value: float, unit: str, text: str) -> None:
    """Short, as Grafana writes them."""
    assert shown(value, unit) == text
