"""A client that a public generator makes of the description, calling a live router."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from router_fixture import running_router

from pointsman.contract.tokens import hash_token
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.table import ENDPOINTS

GENERATOR = Path(__file__).parents[4] / ".venv-generator" / "bin" / "openapi-python-client"
"""`make client-generator` installs it, in an environment of its own, which runs the client, too."""

pytestmark = pytest.mark.skipif(not GENERATOR.exists(), reason="make client-generator was not called")

USE = """
import sys
from generated import AuthenticatedClient
from generated.api.decisions import explain
from generated.api.engines import delete_replica, put_replica, take_events
from generated.api.events import list_events
from generated.api.health import readyz
from generated.api.policies import get_policy, put_policy
from generated.api.replicas import drain_replica, get_replica, list_replicas
from generated.api.tokens import whoami
from generated.models import EngineEvents, ExplainRequest, Policy, Problem, Registration, ReplicaView

client = AuthenticatedClient(base_url=sys.argv[1], token="t")
assert whoami.sync(client=client).name == "ann"
for name in "ab":
    made = put_replica.sync(name, client=client, body=Registration(url="http://127.0.0.1:9", model="m"))
    assert isinstance(made, ReplicaView) and made.state == "up", made
page = list_replicas.sync(client=client, limit=1)
assert [replica.id for replica in page.replicas] == ["a"] and page.next_ == "a"
assert [replica.id for replica in list_replicas.sync(client=client, cursor=page.next_).replicas] == ["b"]
assert take_events.sync("a", client=client, body=EngineEvents(epoch="e", seq=0, snapshot=True)).resync is False
assert explain.sync(client=client, body=ExplainRequest(model="m")).decision.first in "ab"
assert drain_replica.sync("b", client=client).state == "draining"
assert delete_replica.sync_detailed("b", client=client).status_code == 204
unknown = get_replica.sync("b", client=client)
assert isinstance(unknown, Problem) and unknown.status == 404 and unknown.type_ == "/docs/problems#not-found"

etag = get_policy.sync_detailed(client=client).headers["etag"]
wanted = Policy.from_dict({"policy": "random"})
assert put_policy.sync(client=client, body=wanted, if_match=etag).policy == "random"
stale = put_policy.sync(client=client, body=wanted, if_match=etag)
assert isinstance(stale, Problem) and stale.status == 412
wrong = put_policy.sync(client=client, body=Policy.from_dict({"policy": "kv_cots"}))
assert isinstance(wrong, Problem) and wrong.key == "policy"

events = list_events.sync(client=client, limit=5).events
assert {event.author for event in events if event.kind == "audit"} == {"ann"}, events
assert events[0].at.year > 2000
assert readyz.sync_detailed(client=client).parsed == "ok\\n"
"""


async def test_a_generated_client_calls_a_router(tmp_path: Path) -> None:
    """All of it is typed: bodies, answers and problems; only msgpack, which engines may send, and an export of lines
    are left out."""
    described = tmp_path / "openapi.json"
    described.write_bytes(msgspec.json.encode(describe_api(ENDPOINTS, "1")))
    made = await run(str(GENERATOR), "generate", "--path", str(described), "--output-path", str(tmp_path / "generated"),
                     "--meta", "none")  # fmt: skip
    assert made.count("Unsupported content type") == made.count("Unsupported content type application/msgpack"), made
    assert made.count("Unsupported content_type") == made.count("Unsupported content_type application/x-ndjson"), made
    assert made.count("WARNING") == 2, made
    (tmp_path / "use.py").write_text(USE)
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"tokens: [{{name: ann, roles: [read, operate, engine], sha256: {hash_token('t')}}}]")
    async with running_router(admin={"port": 0, "tokens_file": str(tokens)}, scrape={"enabled": False}) as router:
        await run(str(GENERATOR.with_name("python")), str(tmp_path / "use.py"),
                  f"http://{router.addresses['admin']}")  # fmt: skip


async def run(*command: str) -> str:
    """What a command said; it has to succeed. A script finds what lies beside it, whatever the tests themselves may."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
