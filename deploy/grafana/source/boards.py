"""All dashboards, in the order in which one reads them, and the metrics that are on none."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.source import edge, fleet, kv, prefill, routing, shared, tenants, worth
from deploy.grafana.source.model import Board

BOARDS: tuple[Board, ...] = tuple(
    module.BOARD for module in (worth, fleet, routing, kv, prefill, edge, shared, tenants)
)

FOLDER = Path(__file__).parents[1] / "dashboards"

NOT_SHOWN: dict[str, str] = {
    "gen_ai_server_time_to_first_token_seconds": (
        "The same observations as pointsman_time_to_first_token_seconds, which is shown, under the convention's name."
    ),
    "gen_ai_server_time_per_output_token_seconds": (
        "The same observations as pointsman_time_per_output_token_seconds, which is shown, under the convention's name."
    ),
}
"""Metrics of the router that are on no panel, each with the reason."""


def file_of(board: Board) -> Path:
    """The file with the dashboard as Grafana reads it."""
    return FOLDER / f"{board.uid}.json"
