"""The admin API: replicas, policy, explanations, health, metrics."""

import asyncio
import json
from typing import Any

import pytest
from openapi_spec_validator import validate
from other_task import another_task
from prometheus_client.parser import text_string_to_metric_families
from router_fixture import client_of, register, running_router
from starlette.requests import Request

from pointsman.contract.registration import Registration
from pointsman.router.fleet.replica import Health
from pointsman.router.fronts.api.pages import PAGES
from pointsman.router.fronts.api.replica_views import ReplicaViews
from pointsman.router.fronts.api.replicas import SLICE_VIEWS, ReplicaFront

JSON = {"content-type": "application/json"}


async def test_a_replica_lives_through_the_api() -> None:
    """Put, renew, list, drain, delete: each answer is the replica as it then is."""
    async with running_router() as router, client_of(router) as client:
        body = {"url": "http://127.0.0.1:9", "model": "qwen", "ttl_s": 10}
        created = await client.put("/v1/replicas/a", json=body)
        assert (created.status_code, created.json()["state"], created.json()["model"]) == (201, "up", "qwen")
        assert (await client.put("/v1/replicas/a", json=body)).status_code == 200
        assert 0 < (await client.get("/v1/replicas/a")).json()["lease_left_s"] <= 10
        assert (await client.post("/v1/replicas/a/drain")).json()["state"] == "draining"
        assert [r["id"] for r in (await client.get("/v1/replicas")).json()["replicas"]] == ["a"]
        assert (await client.delete("/v1/replicas/a")).status_code == 204
        assert (await client.get("/v1/replicas")).json() == {"replicas": []}


async def test_a_large_fleet_is_listed_in_slices_and_without_those_that_leave_meanwhile() -> None:
    """Lookups wait for a slice of the fleet at most, and a slot that was given away is nobody's any more."""
    async with running_router() as router:
        replicas, count = router.core.replicas, 5 * SLICE_VIEWS
        for number in range(count):
            url = f"http://10.0.0.1:{number + 1}"
            replicas.put(f"r{number:04d}", Registration(url=url), ("10.0.0.1", number + 1), 0.0)
        views = ReplicaViews(router.core, router.clock)
        front = ReplicaFront(router.core, router.endpoints, views, clock=router.clock, max_body_bytes=1000)
        async with another_task() as turns:
            listing = asyncio.create_task(front.list_replicas(Request({"type": "http", "query_string": b""})))
            await asyncio.sleep(0)
            replicas.remove(f"r{count - 1:04d}")
            answer = await listing
        listed = json.loads(bytes(answer.body))["replicas"]
        assert [replica["id"] for replica in listed] == [f"r{number:04d}" for number in range(count - 1)]
        assert turns.count >= 5


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        pytest.param("PUT", "/v1/replicas/a", '{"url": "ftp://x"}', 422, "http://HOST:PORT", id="bad url"),
        pytest.param("PUT", "/v1/replicas/a", '{"url": "http://x:1", "ttl": 1}', 422, "ttl: unknown key", id="field"),
        pytest.param("PUT", "/v1/replicas/a", '{"url": "http://127.0.0.1:1", "ttl_s": 0}', 422, "got 0,", id="lease"),
        pytest.param("PUT", "/v1/replicas/a", "{", 400, "not JSON", id="not JSON"),
        pytest.param("PUT", "/v1/replicas/a", "", 422, "url", id="empty"),
        pytest.param("PUT", "/v1/replicas/a%20b", '{"url": "http://127.0.0.1:1"}', 422, "a b", id="bad id"),
        pytest.param("PUT", "/v1/replicas/a", "[" * 5000, 422, "object", id="deep"),
        pytest.param("GET", "/v1/replicas/nobody", None, 404, "nobody", id="unknown replica"),
        pytest.param("DELETE", "/v1/replicas/nobody", None, 404, "nobody", id="delete unknown"),
        pytest.param("POST", "/v1/replicas/nobody/drain", None, 404, "nobody", id="drain unknown"),
        pytest.param("PUT", "/v1/policy", '{"policy": "nope"}', 422, "least_load", id="unknown policy"),
        pytest.param("PUT", "/v1/policy", '{"policy": "least_load", "x": 1}', 422, "by", id="unknown policy key"),
        pytest.param("PUT", "/v1/policy", "", 422, "", id="empty policy"),
        pytest.param("POST", "/v1/explain", '{"sesion": "s"}', 422, "session", id="misspelt feature"),
        pytest.param("POST", "/v1/explain", '{"policy": "nope"}', 422, "random", id="explain unknown policy"),
        pytest.param("GET", "/v2/replicas", None, 404, "", id="unknown path"),
        pytest.param("PATCH", "/v1/policy", None, 405, "", id="unknown method"),
    ],
)  # fmt: skip
async def test_errors_are_clear_and_change_nothing(
    method: str, path: str, body: str | None, status: int, says: str
) -> None:
    """One shape, a problem document; its sentence says what was expected; the state is as before."""
    async with running_router() as router, client_of(router) as client:
        before = (await client.get("/v1/policy")).json()
        answer = await client.request(method, path, content=body, headers=JSON if body is not None else {})
        assert answer.status_code == status, answer.text
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == status and says in problem["detail"]
        assert problem["type"].startswith("/docs/problems#") and problem["title"]
        assert (await client.get("/v1/policy")).json() == before
        assert (await client.get("/v1/replicas")).json() == {"replicas": []}


async def test_an_earlier_life_of_a_replica_changes_nothing() -> None:
    """409 to its heartbeat, its drain and its leaving; its successor takes its own orders, and anybody's."""
    async with running_router() as router, client_of(router) as client:
        later = {"url": "http://127.0.0.1:9", "born_ms": 200}
        assert (await client.put("/v1/replicas/a", json=later)).status_code == 201
        for method, path, body in (
            ("PUT", "/v1/replicas/a", {"url": "http://127.0.0.1:8", "born_ms": 100}),
            ("POST", "/v1/replicas/a/drain?born_ms=100", None),
            ("DELETE", "/v1/replicas/a?born_ms=100", None),
        ):
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 409 and "later incarnation" in answer.json()["detail"]
        view = (await client.get("/v1/replicas/a")).json()
        assert (view["url"], view["state"]) == ("http://127.0.0.1:9", "up")
        assert (await client.delete("/v1/replicas/a?born_ms=x")).status_code == 422
        assert (await client.post("/v1/replicas/a/drain?born_ms=200")).status_code == 200
        assert (await client.delete("/v1/replicas/a")).status_code == 204


async def test_a_body_too_large_is_refused_while_it_arrives() -> None:
    """The limit is named."""
    async with running_router(admin={"port": 0, "max_body_bytes": 2048}) as router, client_of(router) as client:
        answer = await client.put("/v1/policy", content=b" " * 4096, headers=JSON)
        assert answer.status_code == 413 and "2048" in answer.json()["detail"]


async def test_a_policy_goes_live_with_its_defaults_filled_in() -> None:
    """The answer is the document as applied; the next lookup uses it."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        document = {"policy": "session_affinity", "ttl_s": 60, "fallback": {"policy": "power_of_two"}}
        applied = (await client.put("/v1/policy", json=document)).json()
        assert (
            applied["ttl_s"] == 60 and applied["fallback"]["policy"] == "power_of_two" and "overload_factor" in applied
        )
        assert (await client.get("/v1/policies")).json()["active"] == "session_affinity"
        told = (await client.post("/v1/explain", json={})).json()
        assert told["decision"]["first"] == "a" and told["policy"] == applied


async def test_a_policy_that_haproxy_reads_too_little_for_is_put_live_with_a_warning() -> None:
    """The answer, metrics and a dry run say how far HAProxy looks; with a window as large as that nothing is said."""
    async with running_router(policy={"policy": "least_load"}) as router, client_of(router) as client:
        assert "warnings" not in (await client.put("/v1/policy", json={"policy": "kv_cost"})).json()
        await client.put("/v1/policy", json={"policy": "least_load"})
        router.core.edge_health.body_window_bytes = 16_384
        assert "warnings" not in (await client.put("/v1/policy", json={"policy": "random"})).json()
        for dry_run in ("1", "0"):
            answer = await client.put("/v1/policy", json={"policy": "kv_cost"}, params={"dry_run": dry_run})
            assert answer.status_code == 200
            (warning,) = answer.json()["warnings"]
            assert "114688" in warning and "16384" in warning
        found = await metrics(client)
        assert found["pointsman_haproxy_body_window_bytes"] == 16_384
        assert found["pointsman_policy_body_window_bytes"] == 114_688
        assert "warnings" not in (await client.get("/v1/policy")).json()
        router.core.edge_health.body_window_bytes = 114_688
        assert "warnings" not in (await client.put("/v1/policy", json={"policy": "kv_cost"})).json()


async def test_explaining_by_kv_shows_every_term() -> None:
    """For each candidate what of the prompt is resident there, half of the way to the next key included, and terms that
    add up to its score."""
    async with running_router(policy={"policy": "kv_cost"}) as router, client_of(router) as client:
        await register(router, "a", "b")
        await client.post("/v1/replicas/b/events", json={"epoch": "e", "seq": 0, "snapshot": True, "stored": [7, 8]})
        told = (await client.post("/v1/explain", json={"body_bytes": 4000, "prefix_keys": [7, 8, 9]})).json()
        assert (told["decision"]["first"], told["decision"]["reason"]) == ("b", "kv-prefix")
        assert told["prompt_tokens"] == 1000
        assert {row["replica"]: row["resident_tokens"] for row in told["candidates"]} == {"a": 0, "b": 256 + 64}
        for row in told["candidates"]:
            assert set(row["terms"]) == {"queue", "miss", "evict", "interference", "tie"}
            assert sum(row["terms"].values()) == pytest.approx(row["score"])


async def test_a_policy_refused_to_a_person_is_counted_and_no_alarm() -> None:
    """The old one decides on, and the caller has read why; `config_last_reload_successful` stays 1."""
    async with running_router() as router, client_of(router) as client:
        assert (await client.put("/v1/policy", json={"policy": "nope"})).status_code == 422
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"
        values = await metrics(client)
        assert values["pointsman_config_last_reload_successful"] == 1
        assert values['pointsman_policy_changes_total{result="refused"}'] == 1


async def test_a_policy_that_nobody_waits_for_is_an_alarm_until_a_change_succeeds() -> None:
    """As when the state file names a policy that is not installed any more."""
    async with running_router() as router, client_of(router) as client:
        router.core.policy.restore({"policy": "gone"}, router.core.policy.configured)
        assert (await metrics(client))["pointsman_config_last_reload_successful"] == 0
        await client.put("/v1/policy", json={"policy": "random"})
        assert (await metrics(client))["pointsman_config_last_reload_successful"] == 1


async def test_a_router_is_ready_when_a_replica_can_serve() -> None:
    """503 with the reason while none is registered, none is up, or all drain; prefill replicas serve no request."""
    async with running_router() as router, client_of(router) as client:

        async def ready() -> tuple[int, str]:
            answer = await client.get("/readyz")
            return answer.status_code, answer.text

        assert await ready() == (503, "not ready: replicas: no replica can serve: none is registered\n")
        await register(router, "p", role="prefill")
        assert (await ready())[0] == 503
        await register(router, "a", "b")
        assert await ready() == (200, "ok\n")
        router.core.replicas.set_health("a", Health.DOWN, 0.0)
        assert await ready() == (200, "ok\n")
        await client.post("/v1/replicas/b/drain")
        assert await ready() == (503, "not ready: replicas: no replica can serve: 1 down, 1 draining\n")
        assert (await client.get("/readyz?exclude=replicas")).status_code == 200
        router.readiness.degraded("shared state", "unreachable")
        assert (await ready())[1].endswith("\ndegraded: shared state: unreachable\n")


async def test_if_match_protects_against_a_lost_update() -> None:
    """The second of two writers who read the same version is told with 412."""
    async with running_router() as router, client_of(router) as client:
        etag = (await client.get("/v1/policy")).headers["etag"]
        first = await client.put("/v1/policy", json={"policy": "random"}, headers={"if-match": etag})
        assert first.status_code == 200 and first.headers["etag"] != etag
        second = await client.put("/v1/policy", json={"policy": "round_robin"}, headers={"if-match": etag})
        assert second.status_code == 412
        assert (await client.get("/v1/policy")).json()["policy"] == "random"


async def test_a_dry_run_only_validates() -> None:
    """Good and bad documents are judged; the live policy and the reload gauge stay."""
    async with running_router() as router, client_of(router) as client:
        good = await client.put("/v1/policy?dry_run=1", json={"policy": "random"})
        assert good.status_code == 200 and good.json()["policy"] == "random"
        assert (await client.put("/v1/policy?dry_run=1", json={"policy": "nope"})).status_code == 422
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"
        assert (await metrics(client))["pointsman_config_last_reload_successful"] == 1


async def test_the_token_guards_v1_only() -> None:
    """Scrapers and probes need none; a wrong or missing one is 401 with the scheme."""
    token = {"authorization": "Bearer s3cret"}
    async with running_router(admin={"port": 0, "token": "s3cret"}) as router, client_of(router) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            answer = await client.get("/v1/replicas", headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/replicas", headers=token)).status_code == 200
        for path in ("/metrics", "/livez", "/readyz?exclude=replicas", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_the_description_is_valid_and_covers_every_route() -> None:
    """OpenAPI 3.1, and no route is missing from it."""
    async with running_router() as router, client_of(router) as client:
        document = (await client.get("/openapi.json")).json()
        validate(document)
        described = {
            (method.upper(), path)
            for path, item in document["paths"].items()
            for method in item
            if method != "parameters"
        }
        routed = {
            (method, route.path.replace(":path}", "}"))  # type: ignore[attr-defined]
            for route in router.admin.app().routes
            for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
        }
        assert described == routed - {("GET", page) for page in (*PAGES, "/", "/page/{name}")}


async def test_answers_have_the_described_shape() -> None:
    """Every key of an answer is a property of its schema."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
        replica = (await client.get("/v1/replicas/a")).json()
        assert set(replica) == set(schemas["ReplicaView"]["properties"])
        told = (await client.post("/v1/explain", json={})).json()
        assert set(schemas["ExplainAnswer"]["required"]) <= set(told) <= set(schemas["ExplainAnswer"]["properties"])
        assert set(told["candidates"][0]) <= set(schemas["CandidateView"]["properties"])


async def test_metrics_tell_state_and_decisions() -> None:
    """What happened is in the scrape, under the names the dashboard uses."""
    async with running_router(policy={"policy": "least_load"}) as router, client_of(router) as client:
        await register(router, "a", "b")
        async with client_of(router, "lookup") as asker:
            for number in range(3):
                await asker.post("/lookup", content=f"id={number}")
        values = await metrics(client)
        assert values['pointsman_decisions_total{policy="least_load",reason="least-load"}'] == 3
        assert values["pointsman_lookup_seconds_count"] == 3
        assert values['pointsman_in_flight{replica="a"}'] + values['pointsman_in_flight{replica="b"}'] == 3
        assert values['pointsman_replica_state{model="",replica="a",state="up"}'] == 1
        assert values["pointsman_imbalance"] == pytest.approx(2 / 1.5)


async def metrics(client: Any) -> dict[str, float]:
    """Samples by name and sorted labels."""
    text = (await client.get("/metrics")).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {s.name + (json_labels(s.labels) if s.labels else ""): s.value for s in samples}


def json_labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items())) + "}"
