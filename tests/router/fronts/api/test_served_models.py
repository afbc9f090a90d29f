"""Models in the admin API, as operators see them."""

from router_fixture import client_of, running_router

from pointsman.router.fleet.replica import Health, ServedNames


async def test_models_are_listed_with_their_replicas_and_adapters() -> None:
    """By state, with how many can take a request; adapters by where they are served and loaded; other names apart."""
    async with running_router() as router, client_of(router) as client:
        for number, (name, more) in enumerate(
            {
                "chat-1": {"model": "chat", "adapters": ["sql", "de"]},
                "chat-2": {"model": "chat", "adapters": ["sql"]},
                "chat-3": {"model": "chat"},
                "p": {"model": "chat", "role": "prefill"},
                "embed-1": {"model": "embed"},
            }.items(),
            1,
        ):
            body = {"url": f"http://127.0.0.1:{number}", **more}
            assert (await client.put(f"/v1/replicas/{name}", json=body)).status_code == 201
        core, now_s = router.core, router.clock()
        core.replicas.set_health("chat-2", Health.DOWN, now_s)
        core.replicas.set_listed("chat-1", ServedNames({"chat": "chat", "chat-latest": "chat"}))
        core.catalog.put("chat-1", {"chat": {"id": "chat", "max_model_len": 32_768}})
        core.adapters.set_loaded(core.replicas.slot_of("chat-1"), ["sql"], 4, now_s)
        await client.post("/v1/replicas/embed-1/drain")
        chat, embed = (await client.get("/v1/models")).json()["models"]
        assert chat == {
            "model": "chat",
            "aliases": ["chat-latest"],
            "context_tokens": 32_768,
            "replicas": {"down": 1, "up": 3},
            "serving": 2,
            "adapters": [
                {"name": "de", "replicas": 1, "loaded": 0},
                {"name": "sql", "replicas": 2, "loaded": 1},
            ],
        }
        assert embed["context_tokens"] is None
        assert (embed["model"], embed["replicas"], embed["serving"]) == ("embed", {"draining": 1}, 0)


async def test_replicas_whose_model_nobody_knows_are_under_no_name() -> None:
    """An endpoint that was registered by its URL alone, and whose list was not read yet."""
    async with running_router(scrape={"enabled": False}) as router, client_of(router) as client:
        assert (await client.get("/v1/models")).json() == {"models": []}
        await client.put("/v1/replicas/a", json={"url": "http://127.0.0.1:1"})
        (unknown,) = (await client.get("/v1/models")).json()["models"]
        assert (unknown["model"], unknown["replicas"], unknown["serving"]) == ("", {"up": 1}, 1)
