"""The files under deploy/, and what those that name metrics may name.

`exported_metrics` lets a real router, a real HAProxy and a simulated replica say what they export, so a renamed metric
or label fails the test of the dashboard that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from haproxy_fixture import running_edge, until
from prometheus_client.parser import text_string_to_metric_families
from router_fixture import client_of, register, running_router

from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.server import SimServer
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "pointsman-edge.json"

Metrics = dict[str, set[str]]
"""Series name -> its labels."""

OF_PROMETHEUS: Metrics = {"up": set()}


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


class Query(NamedTuple):
    """An expression and where it stands."""

    where: str
    text: str


def alert_queries() -> list[Query]:
    """The expression of every alert."""
    groups = load_yaml(PROMETHEUS / "alerts.yml")["groups"]
    return [Query(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    """The dashboard's panels, rows left out."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def dashboard_queries() -> list[Query]:
    """The expression of every target of every panel."""
    return [
        Query(f"{panel['title']}, {target['refId']}", target["expr"])
        for panel in panels()
        for target in panel["targets"]
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


async def exported_metrics(folder: Path) -> Metrics:
    """What router, HAProxy and a simulated replica export, each having done a bit of everything."""
    return {**OF_PROMETHEUS, **await _of_router(), **await _of_haproxy(folder), **await _of_replica()}


async def _of_router() -> Metrics:
    async with running_router(override_header=True) as router, client_of(router) as admin:
        await register(router, "r1", "r2")
        await _decide(router)
        await _end_requests(router)
        await register(router, "d1", model="m", role="decode")
        told = {"epoch": "e", "seq": 0, "snapshot": True, "handoffs": {"ok": 1, "leg_ms": 20}}
        assert (await admin.post("/v1/replicas/d1/events", json=told)).is_success
        assert router.core.pipeline.decide(RequestFeatures(request_id="", model="m"), 0.0).pairing
        answer = await admin.put("/v1/policy", json={"policy": "random"})
        assert answer.status_code == 200, answer.text
        return series((await admin.get("/metrics")).text)


async def _decide(router: Router) -> None:
    async with client_of(router, "lookup") as client:
        answer = await client.post("/lookup", data={"id": "1", "path": "/v1/completions", "session": "s", "size": "2"})
        assert "first=" in answer.text


async def _end_requests(router: Router) -> None:
    """One request served after a redispatch, one that failed open, one that HAProxy refused; a replica that fails."""
    failed = {"ev": "end", "srv": "r2", "first": "r2", "reason": "random", "st": 500, "tr": 1, "ta": 2, "routed": "1"}
    lines = (
        *({"id": f"f{number}"} | failed for number in range(5)),
        failed | {"id": "1", "srv": "r1", "st": 200, "ttft": "1", "rc": "+1"},
        {"ev": "end", "id": "2", "srv": "r2", "reason": "fail-open", "st": 200, "tr": 1, "ta": 2, "routed": "1"},
        {"ev": "end", "id": "3", "srv": "<NOSRV>", "st": 503},
    )
    for line in lines:
        router.core.end_of_request.apply(json.dumps(line).encode(), router.clock())


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
