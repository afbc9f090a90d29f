"""A plain `vllm serve` behind the edge, on CPU: joined by URL, it tells nothing, and everything about it is read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from edge import running_up, until
from held_ports import pick_ports
from vllm_fleet import real_vllm

from pointsman.engine.vllm.fleet import cpu
from pointsman.engine.vllm.tiny_model import cached_tiny_model

pytestmark = [pytest.mark.e2e, *real_vllm(timeout_s=1200)]

START_S = 600.0
WIDTH, RANK, LAYERS = 64, 8, 2
"""Of the tiny model's attention, and of the adapter."""


def write_adapter(folder: Path) -> None:
    """A LoRA adapter for the tiny model, seeded, in PEFT's format."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(LAYERS):
        at = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{at}.lora_A.weight"] = rng.normal(0, 0.5, (RANK, WIDTH)).astype(np.float32)
        tensors[f"{at}.lora_B.weight"] = rng.normal(0, 0.5, (WIDTH, RANK)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "tiny", "bias": "none"})
    )


@asynccontextmanager
async def vllm_serve(folder: Path, port: int) -> AsyncIterator[None]:
    """`vllm serve` with one adapter, while the context is open; its log becomes a note of what fails inside."""
    adapter = folder / "sql"
    write_adapter(adapter)
    argv = ["-m", "vllm.entrypoints.cli.main", "serve", str(cached_tiny_model()), "--served-model-name", "tiny"]
    argv += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--enable-lora",
        "--max-loras",
        "1",
        "--max-lora-rank",
        str(RANK),
    ]
    argv += ["--lora-modules", f"sql={adapter}", *cpu.ARGS]
    environment = {**os.environ, **cpu.ENV, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / "vllm.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, env=environment, stdout=file, stderr=asyncio.subprocess.STDOUT
        )
    try:
        yield
    except BaseException as error:
        error.add_note(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_a_plain_vllm_is_read_and_its_adapter_served(tmp_path: Path) -> None:
    """Size, model and adapter are read; the adapter answers under its own name, and otherwise than its base."""
    (port,) = pick_ports(1)
    router = {
        "replicas": [{"id": "gpu", "url": f"http://127.0.0.1:{port}"}],
        "policy": {"policy": "lora_affinity"},
        "scrape": {"idle_interval_s": 0.5, "timeout_s": 10.0},
    }
    async with vllm_serve(tmp_path, port), running_up(0, router=router) as edge:

        async def told() -> bool:
            view = (await edge.replicas())["gpu"]
            known = 'pointsman_kv_capacity_tokens{replica="gpu"}' in await edge.metrics()
            return view["state"] == "up" and view["names"] == ["sql", "tiny"] and known

        await until(told, START_S)
        cards = {card["id"]: card for card in (await edge.client.get("/v1/models")).json()["data"]}
        assert cards["sql"]["parent"] == "tiny" and cards["tiny"]["max_model_len"] == 4096
        answers = {}
        for model in ("tiny", "sql"):
            answer = await edge.chat("Tell me about sockets.", model=model, temperature=0, max_tokens=24)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
            answers[model] = answer.json()["choices"][0]["message"]["content"]
        assert answers["tiny"] != answers["sql"]
        assert (await edge.chat(model="sql")).headers["x-pointsman-reason"] == "lora-loaded"
        assert (await edge.chat(model="gpt-9")).status_code == 404
        view = (await edge.replicas())["gpu"]
        assert view["adapters_loaded"] == ["sql"]
