"""All dashboards, in the order in which one reads them, and the metrics that are on none."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.source import edge, fleet, kv, prefill, routing, shared, worth
from deploy.grafana.source.model import Board

BOARDS: tuple[Board, ...] = tuple(module.BOARD for module in (worth, fleet, routing, kv, prefill, edge, shared))

FOLDER = Path(__file__).parents[1] / "dashboards"

_SHADOW = "There only while a shadow decides; the live page and `pointsman policy shadow` compare both policies."
_ROLLOUT = "There only while a rollout runs; the live page and `pointsman policy rollout` compare both arms."

NOT_SHOWN: dict[str, str] = {
    "gen_ai_server_time_to_first_token_seconds": (
        "The same observations as pointsman_time_to_first_token_seconds, which is shown, under the convention's name."
    ),
    "gen_ai_server_time_per_output_token_seconds": (
        "The same observations as pointsman_time_per_output_token_seconds, which is shown, under the convention's name."
    ),
    "pointsman_admin_file_errors_total": "A file that cannot be used is a degraded part, and those are shown.",
    "pointsman_shadow_cached_tokens_total": _SHADOW,
    "pointsman_shadow_decisions_total": _SHADOW,
    "pointsman_shadow_errors_total": _SHADOW,
    "pointsman_shadow_info": _SHADOW,
    "pointsman_shadow_predicted_total": _SHADOW,
    "pointsman_shadow_seconds_total": _SHADOW,
    "pointsman_shadow_ttft_seconds_total": _SHADOW,
    "pointsman_rollout_errors": _ROLLOUT,
    "pointsman_rollout_info": _ROLLOUT,
    "pointsman_rollout_requests": _ROLLOUT,
    "pointsman_rollout_share": _ROLLOUT,
    "pointsman_rollout_ttft_seconds": _ROLLOUT,
}
"""Metrics of the router that are on no panel, each with the reason."""


def file_of(board: Board) -> Path:
    """The file with the dashboard as Grafana reads it."""
    return FOLDER / f"{board.uid}.json"
