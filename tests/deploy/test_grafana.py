"""deploy/grafana: a dashboard that can be read, on metrics that exist, and provisioning that finds it."""

from __future__ import annotations

import json
from itertools import combinations, count, islice
from pathlib import Path
from typing import Any

import pytest
from deploy_files import (
    DASHBOARD,
    DEPLOY,
    alert_queries,
    dashboard_queries,
    exported_metrics,
    load_yaml,
    panels,
    target_labels,
)
from edge import running_up, until
from prometheus_server import moved, needs_prometheus, running_prometheus
from promql import fill_in, read

from pointsman.up.ports import pick_ports

GRID_WIDTH = 24

SCRAPED_S = 60.0
"""Two scrapes of traffic from every replica: a second on an idle machine, far more beside a whole suite."""

EMPTY_ON_A_HEALTHY_EDGE = {
    "Not decided, B": "HAProxy refuses nothing",
    "Requests by replica, B": "nothing is redispatched",
    "Failed answers, A": "no answer fails",
    "Ejected and demoted, A": "no replica fails",
    "Ejected and demoted, B": "no replica is slow or full",
    "Full replicas and retries, A": "no replica is full",
    "Full replicas and retries, B": "no retry is forbidden",
    "End-of-request lines, B": "no line is malformed",
    "Who computes prompts, A": "no replica has a role",
    "Prefill legs, A": "no replica has a role",
    "Leg time, mean, A": "no replica has a role",
}
"""Queries without a series while all is well, and why."""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def test_panels_do_not_overlap() -> None:
    """Panels and rows lie side by side inside the grid, and have ids of their own."""
    placed = dashboard()["panels"]
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


def test_panels_explain_themselves() -> None:
    """Each panel has title, description, unit, and a legend for each of its queries."""
    titles = [panel["title"] for panel in panels() if panel["type"] != "stat"]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_data_source_is_a_variable() -> None:
    """The dashboard works with any Prometheus: panels, queries and variables name it by the variable alone."""
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "edge", "replica"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    named = [variables["edge"]["datasource"], variables["replica"]["datasource"]]
    for panel in panels():
        named += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in named)


def test_queries_keep_to_the_chosen_edges() -> None:
    """Every query is narrowed by one of the two variables; a rate's range is Grafana's, so that zooming works."""
    for query in dashboard_queries():
        assert 'edge=~"$edge"' in query.text or 'replica=~"$replica"' in query.text, query
        assert "rate(" not in query.text or "[$__rate_interval]" in query.text, query


def test_legends_name_labels_of_their_queries() -> None:
    """`{{label}}` in a legend is a label the query keeps."""
    for panel in panels():
        for target in panel["targets"]:
            named = {part.split("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
            kept = read(target["expr"]).grouping
            assert named <= kept or not kept, f"{panel['title']}: {sorted(named - kept)}"


@pytest.mark.e2e
async def test_queries_name_what_is_exported(tmp_path: Path) -> None:
    """Every metric and label of a panel or variable is one that router, HAProxy or vLLM's surface exports."""
    metrics = await exported_metrics(tmp_path)
    added = target_labels()
    for query in dashboard_queries():
        expression = read(query.text)
        known = set(added)
        for metric, labels in expression.metrics.items():
            assert metric in metrics, f"{query.where}: no {metric} is exported"
            assert labels <= metrics[metric] | added, f"{query.where}: {metric} has labels {sorted(metrics[metric])}"
            known |= metrics[metric]
        assert expression.grouping <= known, f"{query.where}: {sorted(expression.grouping - known)} is no label"
    for variable in dashboard()["templating"]["list"][1:]:
        metric, _, label = variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
        (named,) = read(metric).metrics
        assert label in metrics[named] | added, variable["name"]


@needs_prometheus
@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_a_real_prometheus_answers_every_query(tmp_path: Path) -> None:
    """Prometheus on the shipped configuration, scraping a real edge, has data for every panel and reads every alert."""
    (ops,) = pick_ports(1)
    haproxy = {"ops": {"host": "127.0.0.1", "port": ops}, "first_token": True}
    async with running_up(2, haproxy=haproxy) as edge:
        replicas = {id: view["url"].removeprefix("http://") for id, view in (await edge.replicas()).items()}
        targets = {"pointsman-router": edge.admin_url.removeprefix("http://"), "pointsman-haproxy": f"127.0.0.1:{ops}"}
        async with running_prometheus(tmp_path, moved(targets, replicas)) as prometheus:
            numbers = count()

            async def scraped_traffic() -> bool:
                # New sessions each time: those that met a replica's bad moment stay with another.
                for number in islice(numbers, 4):
                    answer = await edge.chat("x" * 400, session=f"s{number}", stream=True)
                    assert answer.status_code == 200
                # Per replica: a rate wants two scrapes of a series.
                seen = await prometheus.query('rate(pointsman_first_token_seconds_count{replica=~".+"}[1m]) > 0')
                hits = await prometheus.query("rate(vllm:prefix_cache_hits_total[1m]) > 0")
                return len(seen) == len(hits) == len(replicas)

            await until(scraped_traffic, SCRAPED_S)
            for query in dashboard_queries():
                found = await prometheus.query(fill_in(query.text))
                assert found or query.where in EMPTY_ON_A_HEALTHY_EDGE, query
            for query in alert_queries():
                await prometheus.query(query.text)
            assert {series["metric"]["job"]: series["value"][1] for series in await prometheus.query("up")} == {
                "pointsman-router": "1",
                "pointsman-haproxy": "1",
                "vllm": "1",
            }


def test_provisioning_finds_the_dashboard() -> None:
    """compose.yaml mounts the dashboards where the provider looks, and the data source is the Prometheus beside it."""
    (provider,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "dashboards" / "pointsman.yml")["providers"]
    (source,) = load_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    services = load_yaml(DEPLOY / "compose.yaml")["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    assert source["url"] == "http://prometheus:9090"
    interval = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
