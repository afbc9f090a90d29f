"""What `pointsman up` decides before it starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pointsman.haproxy.config import PREFIX_WINDOW_BYTES, SMALL_WINDOW_BYTES, EdgeConfig
from pointsman.up.plan import UpOptions, plan_edges


def planned_edge(tmp_path: Path, policy: dict[str, Any], **haproxy: Any) -> EdgeConfig:
    """The HAProxy configuration planned for a policy."""
    config = tmp_path / "up.yaml"
    config.write_text(yaml.safe_dump({"haproxy": haproxy}))
    options = UpOptions(listen="127.0.0.1:0", admin="127.0.0.1:0", run_dir=tmp_path / "r", policy=policy, config=config)
    (planned,) = plan_edges(options)
    planned.folder.release(failed=False)
    return planned.edge


@pytest.mark.parametrize(
    ("policy", "window"),
    [
        pytest.param({"policy": "session_affinity"}, SMALL_WINDOW_BYTES, id="looks at no prompt"),
        pytest.param({"policy": "kv_cost"}, PREFIX_WINDOW_BYTES, id="goes by prefix keys"),
        pytest.param(
            {"policy": "session_affinity", "fallback": {"policy": "kv_cost"}},
            PREFIX_WINDOW_BYTES,
            id="its fallback does",
        ),
    ],
)
def test_bodies_are_looked_into_as_far_as_the_policy_needs(tmp_path: Path, policy: dict[str, Any], window: int) -> None:
    """A wide window costs large buffers and copies of them: only who goes by prefix keys pays for it."""
    assert planned_edge(tmp_path, policy).body_window_bytes == window


def test_a_window_that_is_configured_counts(tmp_path: Path) -> None:
    """Whatever the policy."""
    assert planned_edge(tmp_path, {"policy": "kv_cost"}, body_window_bytes=65536).body_window_bytes == 65536


@pytest.mark.parametrize("isolated", [True, False])
def test_both_processes_keep_tenants_apart_or_neither(tmp_path: Path, isolated: bool) -> None:
    """One setting of the router's, which HAProxy gets as well."""
    config = tmp_path / "up.yaml"
    config.write_text(yaml.safe_dump({"router": {"isolate_tenants": isolated}}))
    options = UpOptions(listen="127.0.0.1:0", admin="127.0.0.1:0", run_dir=tmp_path / "r", config=config)
    (planned,) = plan_edges(options)
    planned.folder.release(failed=False)
    assert planned.edge.isolate_tenants is isolated


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4318"])
def test_haproxy_hands_trace_contexts_over_where_the_router_traces(tmp_path: Path, endpoint: str) -> None:
    """One setting of the router's decides for both."""
    config = tmp_path / "up.yaml"
    config.write_text(yaml.safe_dump({"router": {"tracing": {"endpoint": endpoint}}}))
    options = UpOptions(listen="127.0.0.1:0", admin="127.0.0.1:0", run_dir=tmp_path / "r", config=config)
    (planned,) = plan_edges(options)
    planned.folder.release(failed=False)
    assert planned.edge.tracing is bool(endpoint)


def test_haproxy_reaches_the_router_over_sockets_of_the_run_folder(tmp_path: Path) -> None:
    """No other user of the machine can ask or report there; an HAProxy that gives up its user or its root could not
    open them, and gets ports of loopback."""
    edge = planned_edge(tmp_path, {"policy": "random"})
    for name, address in (("spop", edge.spop_address), ("ring", edge.ring_address), ("lookup", edge.lookup_address)):
        assert address == f"unix@{tmp_path}/r/{name}.sock"
    assert edge.models_address == edge.lookup_address
    edge = planned_edge(tmp_path, {"policy": "random"}, user="nobody")
    addresses = {edge.spop_address, edge.ring_address, edge.lookup_address}
    assert len(addresses) == 3 and all(address.startswith("127.0.0.1:") for address in addresses)
