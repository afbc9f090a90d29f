"""The files under deploy/, and what those that name metrics may name.

`exported_metrics` lets a real HAProxy and a simulated replica say what they export, and asks the router's collectors
what they declare, so a renamed metric or label fails the test of the dashboard that shows it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from haproxy_fixture import running_edge, until
from prometheus_client.parser import text_string_to_metric_families
from promql import read

from deploy.grafana.source.boards import BOARDS
from deploy.grafana.source.build import file_of
from deploy.grafana.source.model import Board
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.server import SimServer
from pointsman.router.app import Router
from pointsman.router.metrics.exposition import HISTOGRAM, Family
from pointsman.router.process.tracing_settings import TracingSettings
from pointsman.router.settings import Settings, SharedSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"

Metrics = dict[str, set[str]]
"""Series name -> its labels."""

OF_PROMETHEUS: Metrics = {"up": set()}


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


class Query(NamedTuple):
    """An expression and where it stands."""

    where: str
    text: str
    waits_for: str = ""
    """The event without which it has no series."""


def alert_queries() -> list[Query]:
    """The expression of every alert."""
    return [Query(rule["alert"], rule["expr"]) for rule in _rules("alerts.yml")]


def recording_queries() -> list[Query]:
    """The expression of every recording rule, by the name of what it records."""
    return [Query(rule["record"], rule["expr"]) for rule in _rules("recording.yml")]


def _rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in load_yaml(PROMETHEUS / name)["groups"] for rule in group["rules"]]


def dashboards() -> list[tuple[Board, dict[str, Any]]]:
    """Every dashboard as data, and as the JSON that is checked in."""
    return [(board, dict(json.loads(file_of(board).read_text()))) for board in BOARDS]


def dashboard_queries() -> list[Query]:
    """The expression of every query of every panel."""
    return [
        Query(f"{board.uid}: {panel.title}, {query.legend}", query.expr, query.waits_for)
        for board in BOARDS
        for panel in board.panels()
        for query in panel.queries
    ]


def target_labels() -> set[str]:
    """Labels Prometheus itself gives a series by deploy/prometheus/: target labels, and what relabelling adds."""
    labels = {"job", "instance"}
    for job in load_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]:
        labels |= {rule["target_label"] for rule in job.get("relabel_configs", ())}
    for group in load_yaml(PROMETHEUS / "targets" / "replicas.yml"):
        labels |= set(group["labels"])
    return labels


def series(text: str) -> Metrics:
    """The series of an exposition page."""
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def families() -> list[Family]:
    """Every family that a router of several edges that traces requests declares."""
    tracing = TracingSettings(endpoint="http://127.0.0.1:1")
    return list(Router(Settings(shared=SharedSettings(url="redis://127.0.0.1:1"), tracing=tracing)).metrics())


async def exported_metrics(folder: Path) -> Metrics:
    """What router, HAProxy, a simulated replica and the recording rules export."""
    return {
        **OF_PROMETHEUS,
        **_of_router(),
        **_recorded(),
        **await _of_haproxy(folder),
        **await _of_replica(),
    }


def _of_router() -> Metrics:
    found: Metrics = {}
    for family in families():
        if family.kind == HISTOGRAM:
            found |= {f"{family.name}_{part}": set(family.labels) for part in ("sum", "count")}
            found[f"{family.name}_bucket"] = {*family.labels, "le"}
        else:
            found[family.name] = set(family.labels)
    return found


def _recorded() -> Metrics:
    """Series of the recording rules; the first part of a name lists the labels."""
    return {query.where: read(query.text).grouping for query in recording_queries()}


async def _of_haproxy(folder: Path) -> Metrics:
    async with running_edge(folder) as edge, httpx.AsyncClient(trust_env=False) as client:
        assert edge.config.ops is not None
        return series((await client.get(f"http://{edge.config.ops.address}/metrics")).text)


async def _of_replica() -> Metrics:
    async with SimServer(SimConfig(timing="fast")) as replica, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{replica.url}/v1/completions", json={"prompt": "x" * 200, "max_tokens": 2})
        assert answer.status_code == 200, answer.text

        async def counted() -> bool:
            return "vllm:time_to_first_token_seconds_bucket" in (await client.get(f"{replica.url}/metrics")).text

        await until(counted)
        return series((await client.get(f"{replica.url}/metrics")).text)
