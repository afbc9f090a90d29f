"""Metrics of the access log."""

from __future__ import annotations

from pathlib import Path

from router_fixture import client_of, running_router

from pointsman.router.metrics.access_log import AccessLogCollector
from pointsman.router.metrics.exposition import render
from pointsman.router.metrics.families import collect_all
from pointsman.router.settings import DecisionLogSettings
from pointsman.router.watch.access_log import AccessLog


async def samples(access_log: AccessLog | None) -> list[str]:
    page = (await render(collect_all(AccessLogCollector(access_log)))).decode()
    return [line for line in page.splitlines() if not line.startswith("#")]


async def test_lines_that_are_written_and_lost_are_counted(tmp_path: Path) -> None:
    """Each in its own series, both there from the start."""
    access_log = AccessLog(str(tmp_path))  # a folder, which takes no line
    assert await samples(access_log) == [
        'pointsman_access_log_lines_total{outcome="written"} 0.0',
        'pointsman_access_log_lines_total{outcome="dropped"} 0.0',
    ]
    access_log.add(b"lost")
    await access_log.flush()
    assert await samples(access_log) == [
        'pointsman_access_log_lines_total{outcome="written"} 0.0',
        'pointsman_access_log_lines_total{outcome="dropped"} 1.0',
    ]


async def test_a_router_without_an_access_log_has_no_series() -> None:
    """A line that nobody wants is none that was dropped."""
    assert await samples(None) == []
    async with running_router() as router, client_of(router) as admin:
        assert "pointsman_access_log_lines_total{" not in (await admin.get("/metrics")).text


async def test_a_router_with_an_access_log_exports_its_counts(tmp_path: Path) -> None:
    decisions = DecisionLogSettings(access_log=str(tmp_path / "access.jsonl"))
    async with running_router(decisions=decisions) as router, client_of(router) as admin:
        assert 'pointsman_access_log_lines_total{outcome="written"} 0.0' in (await admin.get("/metrics")).text
