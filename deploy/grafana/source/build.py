"""Writes deploy/grafana/dashboards/*.json from the dashboards of this folder, with Grafana's own SDK.

    .venv/bin/python -m deploy.grafana.source.build

Whatever is the same on all panels and dashboards is said here: variables, links, the marks of policy changes, legends,
colours. The page `docs/dashboards.md` is made of the same data (`tests/support/reference_docs.py`).
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as words
from grafana_foundation_sdk.models import dashboard as schema

from deploy.grafana.source.boards import BOARDS, file_of
from deploy.grafana.source.model import Board, Kind, Panel, Query

SOURCE = schema.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Panels, queries and variables name it by the variable alone, so the dashboards work with any Prometheus."""

VARIABLES = {
    "edge": ("Edge", "label_values(pointsman_haproxy_up, edge)"),
    "model": ("Model", 'label_values(pointsman_model_requests_total{edge=~"$edge"}, model)'),
    "tenant": ("Tenant", 'label_values(pointsman_model_requests_total{edge=~"$edge"}, tenant)'),
    "replica": ("Replica", 'label_values(pointsman_replica_state{edge=~"$edge"}, replica)'),
}

POLICY_CHANGES = 'sum by (edge) (changes(pointsman_policy_changes_total{edge=~"$edge", result="applied"}[1m])) > 0'

GRID_WIDTH = 24

AnyPanel = timeseries.Panel | stats.Panel | statetimeline.Panel | bargauge.Panel


def as_json(board: Board) -> str:
    """The dashboard as Grafana reads it; the same text for the same board."""
    return JSONEncoder(sort_keys=True, indent=1).encode(build(board).build()) + "\n"


def build(board: Board) -> dashboard.Dashboard:
    """The dashboard."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.text)
        .tags(["pointsman"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(schema.DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(
            dashboard.DashboardLink("Pointsman")
            .type(schema.DashboardLinkType.DASHBOARDS)
            .tags(["pointsman"])
            .keep_time(True)
            .include_vars(True)
            .as_dropdown(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .annotation(
            dashboard.AnnotationQuery()
            .name("Policy changes")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("purple")
            .expr(POLICY_CHANGES)
        )
    )
    for name in board.variables:
        label, values = VARIABLES[name]
        built = built.with_variable(
            dashboard.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query({"query": values, "refId": name})
            .refresh(schema.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(schema.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(schema.VariableOption(text="All", value="$__all"))
        )
    return _with_panels(built, board)


def _with_panels(built: dashboard.Dashboard, board: Board) -> dashboard.Dashboard:
    """Panels from left to right and from top to bottom, below the headings of their rows."""
    number, y = 1, 0
    for row in board.rows:
        # `Dashboard.with_row` places panels itself, and numbers nothing.
        built = built.with_row(dashboard.Row(row.title).id(number).grid_pos(schema.GridPos(1, GRID_WIDTH, 0, y)))
        number, y, x, height = number + 1, y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, height = 0, y + height, 0
            place = schema.GridPos(panel.height, panel.width, x, y)
            built = built.with_panel(_panel(panel).id(number).grid_pos(place))
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height
    return built


def _panel(panel: Panel) -> AnyPanel:
    drawn = _drawn(panel).title(panel.title).description(panel.description).datasource(SOURCE).unit(panel.unit)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        drawn = drawn.with_target(_target(letter, query, instant=panel.kind in (Kind.STAT, Kind.TOP)))
    if panel.least is not None:
        drawn = drawn.min(panel.least)
    if panel.most is not None:
        drawn = drawn.max(panel.most)
    if panel.decimals is not None:
        drawn = drawn.decimals(panel.decimals)
    if panel.words:
        drawn = drawn.mappings(
            [
                schema.ValueMap(
                    {
                        f"{value:g}": schema.ValueMappingResult(text=text, color=colour, index=index)
                        for index, (value, text, colour) in enumerate(panel.words)
                    }
                )
            ]
        )
    return drawn.no_value("no data")


def _target(letter: str, query: Query, *, instant: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)
    return target.instant() if instant else target.range()


def _drawn(panel: Panel) -> AnyPanel:
    match panel.kind:
        case Kind.STAT:
            return _stat(panel)
        case Kind.STATES:
            return (
                statetimeline.Panel()
                .show_value(words.VisibilityMode.NEVER)
                .row_height(0.9)
                .line_width(0)
                .fill_opacity(80)
                .legend(_legend())
                .color_scheme(dashboard.FieldColor().mode(schema.FieldColorModeId.THRESHOLDS))
                .thresholds(_steps(((None, "text"),)))
            )
        case Kind.TOP:
            return (
                bargauge.Panel()
                .orientation(words.VizOrientation.HORIZONTAL)
                .display_mode(words.BarGaugeDisplayMode.BASIC)
                .color_scheme(dashboard.FieldColor().mode(schema.FieldColorModeId.CONTINUOUS_BL_PU))
                .reduce_options(_last())
            )
        case _:
            return _series(panel)


def _stat(panel: Panel) -> stats.Panel:
    mode = schema.FieldColorModeId.THRESHOLDS
    return (
        stats.Panel()
        .color_mode(words.BigValueColorMode.VALUE)
        .graph_mode(words.BigValueGraphMode.NONE)
        .text_mode(words.BigValueTextMode.VALUE)
        .reduce_options(_last())
        .color_scheme(dashboard.FieldColor().mode(mode))
        .thresholds(_steps(panel.steps or ((None, "text"),)))
    )


def _series(panel: Panel) -> timeseries.Panel:
    stacked = panel.kind is Kind.STACK
    drawn = (
        timeseries.Panel()
        .show_points(words.VisibilityMode.NEVER)
        .line_width(1)
        .fill_opacity({Kind.STACK: 40, Kind.BARS: 60}.get(panel.kind, 5))
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(words.TooltipDisplayMode.MULTI).sort(words.SortOrder.DESCENDING))
    )
    if panel.kind is Kind.BARS:
        drawn = drawn.draw_style(words.GraphDrawStyle.BARS)
    if stacked or panel.kind is Kind.BARS:
        drawn = drawn.stacking(common.StackingConfig().mode(words.StackingMode.NORMAL).group("A"))
    return drawn


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(words.LegendDisplayMode.LIST)
        .placement(words.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _steps(steps: tuple[tuple[float | None, str], ...]) -> Builder[schema.ThresholdsConfig]:
    return (
        dashboard.ThresholdsConfig()
        .mode(schema.ThresholdsMode.ABSOLUTE)
        .steps([schema.Threshold(value=value, color=colour) for value, colour in steps])
    )


def main() -> None:
    for board in BOARDS:
        file_of(board).write_text(as_json(board))
        print(file_of(board))


if __name__ == "__main__":
    main()
