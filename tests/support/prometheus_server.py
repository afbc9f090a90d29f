"""A real Prometheus on deploy/prometheus/, with its targets moved to where a test's processes listen."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from deploy_files import PROMETHEUS, load_yaml
from edge import until
from held_ports import pick_ports
from processes import stop

BINARY = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(BINARY is None, reason="prometheus is not installed (Debian package prometheus)")

SCRAPE_INTERVAL = "250ms"

START_S = 60.0
"""It is ready in a second on an idle machine; beside a whole suite on two cores it takes far longer."""

ANSWER_S = 30.0
"""For one query, likewise."""


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=ANSWER_S)

    async def query(self, text: str) -> list[dict[str, Any]]:
        """The series an expression gives; AssertionError with Prometheus's words when it is none."""
        answer = await self.client.get("/api/v1/query", params={"query": text})
        body = answer.json()
        assert body["status"] == "success", f"{text}: {body.get('error')}"
        return list(body["data"]["result"])

    async def span(self, text: str, begin_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The series an expression gives over a range of time."""
        params = {"query": text, "start": begin_s, "end": end_s, "step": step_s}
        answer = (await self.client.get("/api/v1/query_range", params=params)).json()
        assert answer["status"] == "success", f"{text}: {answer.get('error')}"
        return list(answer["data"]["result"])

    async def is_ready(self) -> bool:
        try:
            return (await self.client.get("/-/ready")).status_code == 200
        except httpx.HTTPError:
            return False


def moved(targets: Mapping[str, Mapping[str, str]], replicas: Mapping[str, str]) -> dict[str, Any]:
    """prometheus.yml with targets of its own, all on this machine.

    targets: for each job, HOST:PORT by the name of the edge, which relabelling would make of the host.
    replicas: HOST:PORT by id, for the job vllm.
    """
    config = load_yaml(PROMETHEUS / "prometheus.yml")
    config["global"] = {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        if "static_configs" in job:
            del job["relabel_configs"]
            job["static_configs"] = [
                {"targets": [address], "labels": {"edge": edge}} for edge, address in targets[job["job_name"]].items()
            ]
        else:
            del job["file_sd_configs"]
            job["static_configs"] = [
                {"targets": [address], "labels": {"replica": replica}} for replica, address in replicas.items()
            ]
    return dict(config)


@asynccontextmanager
async def running_prometheus(folder: Path, config: Mapping[str, Any]) -> AsyncIterator[Prometheus]:
    """Prometheus with `config`, its data in `folder`."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    (port,) = pick_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(BINARY),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:

        async def ready_or_gone() -> bool:
            return process.returncode is not None or await prometheus.is_ready()

        await until(ready_or_gone, START_S)
        assert process.returncode is None, f"prometheus ended with {process.returncode}"
        yield prometheus
    except BaseException as error:
        error.add_note((folder / "prometheus.log").read_text()[-3000:])
        raise
    finally:
        await prometheus.client.aclose()
        await stop(process, signal.SIGTERM)
