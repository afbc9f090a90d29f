"""LoRA adapters in the modelled engine."""

from __future__ import annotations

from sim_model import run_until_idle
from sim_replica import chat_body, client_of, replica

from pointsman.engine.sim.adapters import AdapterSlots
from pointsman.engine.sim.config import ModelConfig
from pointsman.engine.sim.model import EngineModel, SimRequest
from pointsman.engine.sim.timing import paced


def test_the_adapter_used_longest_ago_makes_room() -> None:
    """But never one that sequences run with."""
    slots = AdapterSlots(2)
    for name in ("a", "b"):
        slots.take(name)
        slots.let_go(name)
    slots.take("a")
    assert slots.admits("c")
    slots.take("c")
    assert slots.loaded == ["a", "c"] and slots.loads == 3
    assert not slots.admits("b") and slots.admits("a") and slots.admits("")
    slots.let_go("a")
    assert slots.admits("b")


def model(slots: int, load_s: float = 1.0) -> EngineModel:
    return EngineModel(ModelConfig(blocks=100, timing=paced(0.01), adapter_slots=slots, adapter_load_s=load_s))


def test_loading_an_adapter_makes_the_whole_step_longer() -> None:
    """Once; the second request finds it there."""
    engine = model(1)
    engine.add(SimRequest("1", 10, 1, adapter="sql"))
    (first,) = run_until_idle(engine)
    engine.add(SimRequest("2", 10, 1, adapter="sql"))
    (second,) = run_until_idle(engine)
    assert first.duration_s == second.duration_s + 1.0


def test_who_waits_for_a_slot_is_passed() -> None:
    """One slot, held by a running sequence: another adapter waits, the base model does not."""
    engine = model(1)
    engine.add(SimRequest("1", 10, 3, adapter="a"))
    engine.add(SimRequest("2", 10, 1, adapter="b"))
    engine.add(SimRequest("3", 10, 1))
    results = run_until_idle(engine)
    assert [name for result in results for name in result.finished] == ["3", "1", "2"]
    assert engine.adapters.loaded == ["b"] and engine.adapters.loads == 2


def test_a_request_that_comes_later_passes_too() -> None:
    """A queue whose head waits for a slot is looked through again when something comes."""
    engine = model(1)
    engine.add(SimRequest("1", 10, 50, adapter="a"))
    engine.add(SimRequest("2", 10, 1, adapter="b"))
    engine.step()
    engine.add(SimRequest("3", 10, 1))
    assert "3" in engine.step().finished


async def test_adapters_are_served_listed_loaded_and_unloaded() -> None:
    """Under their own names, as vLLM's runtime API has them; their answers name them."""
    async with replica(adapters=("sql",), max_loras=2) as server, client_of(server) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(max_tokens=2) | {"model": "sql"})
        assert answer.json()["model"] == "sql"
        assert server.model.adapters.loaded == ["sql"]
        wanted = {"lora_name": "math", "lora_path": "/adapters/math"}
        assert (await client.post("/v1/load_lora_adapter", json=wanted)).status_code == 200
        assert (await client.post("/v1/load_lora_adapter", json=wanted)).status_code == 400
        assert (await client.post("/v1/load_lora_adapter", json={"lora_name": "x"})).status_code == 400
        cards = {card["id"]: card["parent"] for card in (await client.get("/v1/models")).json()["data"]}
        assert cards == {"sim": None, "sql": "sim", "math": "sim"}
        assert 'running_lora_adapters=""' in (await client.get("/metrics")).text
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})).status_code == 200
        gone = await client.post("/v1/chat/completions", json=chat_body() | {"model": "sql"})
        assert gone.status_code == 404
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})).status_code == 404


async def test_a_replica_without_slots_has_no_adapters() -> None:
    """As a vLLM that was not started with `--enable-lora`."""
    async with replica() as server, client_of(server) as client:
        assert (await client.post("/v1/load_lora_adapter", json={})).status_code == 404
        assert "lora" not in (await client.get("/metrics")).text
