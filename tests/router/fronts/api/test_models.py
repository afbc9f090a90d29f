"""The models front: OpenAI's list of models for the whole fleet."""

from __future__ import annotations

from router_fixture import client_of, register, running_router


async def test_the_list_names_every_model_once() -> None:
    """In OpenAI's form, on the lookup listener."""
    async with running_router() as router, client_of(router, "lookup") as client:
        await register(router, "a", "b", model="org/qwen")
        await register(router, "c", model="llama")
        answer = await client.get("/v1/models")
        assert answer.status_code == 200 and answer.json()["object"] == "list"
        assert [card["id"] for card in answer.json()["data"]] == ["llama", "org/qwen"]


async def test_one_model_is_found_by_its_name_with_slashes() -> None:
    """Escaped or not; an unknown one is a 404 in the shape of vLLM's."""
    async with running_router() as router, client_of(router, "lookup") as client:
        await register(router, "a", model="org/qwen")
        for path in ("/v1/models/org/qwen", "/v1/models/org%2Fqwen"):
            assert (await client.get(path)).json()["id"] == "org/qwen"
        unknown = await client.get("/v1/models/gpt-9")
        assert unknown.status_code == 404
        assert unknown.json()["error"] == {
            "message": "The model `gpt-9` does not exist.", "type": "NotFoundError", "param": "model", "code": 404,
        }  # fmt: skip


async def test_the_listener_says_that_it_lives() -> None:
    """HAProxy's check."""
    async with running_router() as router, client_of(router, "lookup") as client:
        assert (await client.get("/livez")).status_code == 200
