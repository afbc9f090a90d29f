"""docs/metrics.md says what the router exports."""

from __future__ import annotations

import json

from plain_words import complaint
from reference_docs import COMMAND, DOCS, metric_meanings, metrics_page
from router_fixture import client_of, register, running_router

from pointsman.contract.events import EngineEvents, EngineLoad


def test_the_page_is_what_the_code_says() -> None:
    """A renamed metric, another label or another help text shows in the page."""
    assert (DOCS / "metrics.md").read_text() == metrics_page(), f"write it again: {COMMAND}"


async def test_every_exported_series_is_on_the_page() -> None:
    """Families that appear only when something happened are there too, with the values their labels take."""
    page = metrics_page()
    async with running_router() as router, client_of(router) as admin:
        await register(router, "r1")
        events = EngineEvents(epoch="e", seq=0, snapshot=True, capacity_tokens=9, load=EngineLoad())
        router.core.engine_events("r1", events, 0.0)
        line = {"ev": "end", "id": "1", "srv": "r1", "st": 200, "tr": 1, "ta": 2, "rc": "+1"}
        router.core.end_of_request.apply(json.dumps(line).encode(), 0.0)
        router.core.end_of_request.apply(
            json.dumps({"ev": "end", "id": "2", "srv": "<NOSRV>", "st": 503}).encode(), 0.0
        )
        for policy in ("random", "no such policy"):
            await admin.put("/v1/policy", json={"policy": policy})
        text = (await admin.get("/metrics")).text
    families = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert families
    for family in families:
        assert f"| `{family}` |" in page, family
    for value in ("2xx", "up", "expired", "leaked", "applied", "refused"):
        assert f'="{value}"' in text
        assert f"`{value}`" in page


def test_every_help_and_reason_stands_alone() -> None:
    """Prometheus shows a HELP text alone, and a client meets a reason alone."""
    rows = list(metric_meanings())
    assert len(rows) > 100
    assert not [f"{name}: {wrong}" for name, meaning in rows if (wrong := complaint(meaning))]
