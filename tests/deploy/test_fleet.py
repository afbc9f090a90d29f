"""deploy/fleet: a fleet's file that decodes and means what its comments say."""

from __future__ import annotations

import msgspec
from deploy_files import DEPLOY, load_yaml

from pointsman.engine.vllm.fleet.config import Device, decode_fleet
from pointsman.engine.vllm.fleet.spec import bundles_of, ranks_of


def test_the_example_decodes_with_its_token() -> None:
    """Beyond loopback the driver demands one, which comes from the environment."""
    fleet = decode_fleet(load_yaml(DEPLOY / "fleet" / "fleet.yaml") | {"admin_token": "secret"})
    chat, code, moe = fleet.pools
    assert [len(bundles_of(pool, Device.GPU)) for pool in fleet.pools] == [1, 5, 1]
    assert [lora.name for lora in chat.loras] == ["chat-fr", "chat-de"]
    assert code.executor == "ray"
    ranks = ranks_of(fleet, moe, 1, Device.GPU, moe.model, 1)
    assert [rank.spec.id for rank in ranks][::7] == ["moe-1.0", "moe-1.7"]
    assert msgspec.json.encode(ranks[0].spec)
