"""deploy/grafana: dashboards that can be read, on metrics that exist, and provisioning that finds them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from deploy_files import (
    DEPLOY,
    dashboard_queries,
    dashboards,
    exported_metrics,
    families,
    load_yaml,
    recording_queries,
    target_labels,
)
from plain_words import complaint
from promql import read

from deploy.grafana.source.boards import BOARDS, NOT_SHOWN, file_of
from deploy.grafana.source.build import VARIABLES, as_json
from deploy.grafana.source.model import Board, Panel

GRID_WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

PANELS = [pytest.param(panel, id=f"{board.uid}: {panel.title}") for board in BOARDS for panel in board.panels()]

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def drawn(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard, rows left out."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


@each_board
def test_the_files_are_what_the_code_makes(board: Board) -> None:
    """Nobody edits them by hand: `.venv/bin/python -m deploy.grafana.source.build` writes them."""
    assert file_of(board).read_text() == as_json(board)


def test_there_are_no_other_files() -> None:
    """One that the code does not make would grow old."""
    assert sorted(file_of(board) for board in BOARDS) == sorted((DEPLOY / "grafana" / "dashboards").iterdir())


@pytest.mark.parametrize(("board", "document"), dashboards(), ids=lambda value: getattr(value, "uid", ""))
def test_panels_do_not_overlap(board: Board, document: dict[str, Any]) -> None:
    """Panels and rows lie side by side inside the grid, and have ids of their own."""
    placed = document["panels"]
    assert len({panel["id"] for panel in placed}) == len(placed)
    for panel in placed:
        grid = panel["gridPos"]
        assert min(grid["x"], grid["y"]) >= 0, panel["title"]
        assert min(grid["w"], grid["h"]) > 0, panel["title"]
        assert grid["x"] + grid["w"] <= GRID_WIDTH, panel["title"]
    for one, other in combinations(placed, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{one['title']} and {other['title']}"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_answers_a_question(panel: Panel) -> None:
    """What it shows and what to do stand alone, and each query has a legend."""
    assert panel.question.endswith("?")
    for text in (panel.shows, panel.do):
        assert text.endswith("."), text
    assert not complaint(panel.shows), panel.shows
    assert panel.unit
    assert panel.queries
    assert len({query.legend for query in panel.queries}) == len(panel.queries)
    assert all(query.legend for query in panel.queries)


@each_board
def test_no_two_panels_of_a_dashboard_have_one_title(board: Board) -> None:
    """A runbook names a panel by its title; a number beside its own plot may share it."""
    titles = [panel.title for panel in board.panels() if panel.kind != "stat"]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(("board", "document"), dashboards(), ids=lambda value: getattr(value, "uid", ""))
def test_the_data_source_is_a_variable(board: Board, document: dict[str, Any]) -> None:
    """The dashboards work with any Prometheus: panels, queries and variables name it by the variable alone."""
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert list(variables) == ["datasource", *board.variables]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    named = [variables[name]["datasource"] for name in board.variables]
    named += [annotation["datasource"] for annotation in document["annotations"]["list"]]
    for panel in drawn(document):
        named += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == SOURCE for source in named)


@each_board
def test_each_variable_narrows_some_panel(board: Board) -> None:
    """And no panel uses a variable that its dashboard does not have."""
    text = " ".join(query.expr for panel in board.panels() for query in panel.queries)
    used = {name for name in VARIABLES if f"${name}" in text}
    assert used == set(board.variables)


def test_queries_keep_to_the_chosen_edges() -> None:
    """Every query is narrowed by edge, or by replica where engines' own series are asked; ranges are Grafana's."""
    for query in dashboard_queries():
        assert 'edge=~"$edge"' in query.text or 'replica=~"$replica"' in query.text, query
        for function in ("rate(", "increase("):
            assert function not in query.text or "[$__ra" in query.text, query


def test_legends_name_labels_of_their_queries() -> None:
    """`{{label}}` in a legend is a label the query keeps."""
    for board in BOARDS:
        for panel in board.panels():
            for query in panel.queries:
                named = {part.split("}}")[0] for part in query.legend.split("{{")[1:]}
                assert named <= read(query.expr).grouping, f"{panel.title}: {query.legend}"


def test_every_metric_is_on_a_panel() -> None:
    """Or listed with the reason why not; through a recording rule counts."""
    shown = {metric for query in dashboard_queries() for metric in read(query.text).metrics}
    for query in recording_queries():
        if query.where in shown:
            shown |= set(read(query.text).metrics)
    missing = {
        family.name for family in families() if not {family.name, f"{family.name}_bucket", f"{family.name}_sum"} & shown
    }
    assert missing == set(NOT_SHOWN)
    assert all(reason.endswith(".") for reason in NOT_SHOWN.values())


@pytest.mark.e2e
async def test_queries_name_what_is_exported(tmp_path: Path) -> None:
    """Every metric and label of a panel, variable or recording rule is one that somebody exports."""
    metrics = await exported_metrics(tmp_path)
    added = target_labels()
    for query in [*dashboard_queries(), *recording_queries()]:
        expression = read(query.text)
        known = set(added)
        for metric, labels in expression.metrics.items():
            assert metric in metrics, f"{query.where}: no {metric} is exported"
            assert labels <= metrics[metric] | added, f"{query.where}: {metric} has labels {sorted(metrics[metric])}"
            known |= metrics[metric]
        assert expression.grouping <= known, f"{query.where}: {sorted(expression.grouping - known)} is no label"
    for name, (_, values) in VARIABLES.items():
        metric, _, label = values.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        (named,) = read(metric).metrics
        assert label in metrics[named] | added, name


def test_provisioning_finds_the_dashboards() -> None:
    """compose.yaml mounts the dashboards where the provider looks, and the data source is the Prometheus beside it."""
    (provider,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "pointsman.yml")["providers"]
    (source,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    services = load_yaml(DEPLOY / "compose.yaml")["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{file_of(BOARDS[0]).name}"
    assert source["url"] == "http://prometheus:9090"
    interval = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
