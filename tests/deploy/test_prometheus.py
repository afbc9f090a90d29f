"""deploy/prometheus: files Prometheus accepts, alerts that fire when they should and name metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deploy_files import PROMETHEUS, ROOT, alert_queries, exported_metrics, families, load_yaml, target_labels
from promql import read

from deploy.grafana.source.boards import BOARDS
from pointsman.router.metrics.models import PARTS

RUNBOOK = ROOT / "docs" / "runbook.md"
INCIDENTS = Path(__file__).with_name("alerts.promtool.yml")

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian package prometheus)")


def promtool(*arguments: str | Path) -> None:
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_the_configuration() -> None:
    """`promtool check config` reads prometheus.yml, the alerts it includes and the targets it names."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
@pytest.mark.system
def test_alerts_fire_on_what_they_are_for() -> None:
    """In each incident the alerts named after it, and no others; none on an edge that is healthy or idle."""
    promtool("test", "rules", INCIDENTS)


def test_each_alert_is_tried() -> None:
    """No alert goes without an incident in which it fires."""
    tried = set(re.findall(r'alertname="(\w+)"', INCIDENTS.read_text()))
    assert tried == {query.where for query in alert_queries()}


def test_alerts_say_what_to_do() -> None:
    """Severity routes an alert; its summary says what is wrong and its description what that means."""
    for group in load_yaml(PROMETHEUS / "alerts.yml")["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, rule["alert"]


def test_each_alert_has_its_section_in_the_runbook() -> None:
    """With what it means, how to look and what to do; and no section is of an alert that is gone."""
    sections = re.findall(r"^### (Pointsman\w+)\n(.*?)(?=^##)", RUNBOOK.read_text() + "\n##", flags=re.M | re.S)
    rules = [rule for group in load_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
    assert sorted(name for name, _ in sections) == sorted(rule["alert"] for rule in rules)
    for rule in rules:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    for name, text in sections:
        parts = re.findall(r"^\*\*(\w+)\.\*\*", text, flags=re.M)
        assert parts == ["Means", "Look", "Do"], name
        assert "```console\n$ " in text, f"{name}: no command to look with"


def test_the_runbook_names_panels_and_metrics_that_exist() -> None:
    """What stands in italics is a panel, a dashboard, or a part of the time to first token."""
    text = RUNBOOK.read_text()
    titles = [panel.title for board in BOARDS for panel in board.panels()]
    titles += [board.title.removeprefix("Pointsman: ") for board in BOARDS]
    words = [*PARTS, "saving state", "state file", "shared state"]
    prose = re.sub(r"^```.*?^```|\*\*.*?\*\*", "", text, flags=re.M | re.S)
    for name in re.findall(r"\*([^*]+)\*", prose):
        known = " ".join(name.split())
        assert any(title.lower().startswith(known.lower()) for title in [*titles, *words]), (
            f"no panel is called {known}"
        )
    names = [family.name for family in families()]
    for metric in re.findall(r"pointsman_[a-z_]*[a-z]", text):
        assert any(name.startswith(metric) for name in names), metric


def test_the_configuration_names_files_that_exist() -> None:
    """Rules and target files lie beside prometheus.yml, where compose.yaml mounts them together."""
    config = load_yaml(PROMETHEUS / "prometheus.yml")
    named = [*config["rule_files"]]
    for job in config["scrape_configs"]:
        named += [name for discovery in job.get("file_sd_configs", ()) for name in discovery["files"]]
    assert named == ["recording.yml", "alerts.yml", "targets/replicas.yml"]
    assert all((PROMETHEUS / name).is_file() for name in named)


@pytest.mark.e2e
async def test_alerts_name_what_is_exported(tmp_path: Path) -> None:
    """Every metric and label of an alert is one that a real router or HAProxy exports."""
    metrics = await exported_metrics(tmp_path)
    added = target_labels()
    for query in alert_queries():
        expression = read(query.text)
        assert expression.metrics, query
        known = set(added)
        for metric, labels in expression.metrics.items():
            assert metric in metrics, f"{query.where}: no {metric} is exported"
            assert labels <= metrics[metric] | added, f"{query.where}: {metric} has labels {sorted(metrics[metric])}"
            known |= metrics[metric]
        assert expression.grouping <= known, f"{query.where}: {sorted(expression.grouping - known)} is no label"
