"""Replicas of the settings, and saved ones whose network is no longer allowed."""

from __future__ import annotations

import random

import pytest

from pointsman.contract.registration import Registration
from pointsman.router.core import Core
from pointsman.router.errors import SettingsError
from pointsman.router.settings import StaticReplica
from pointsman.router.watch.endpoints import EndpointResolver
from pointsman.router.watch.static_replicas import forget_unlisted, register_static


def make_core() -> Core:
    return Core({"policy": "random"}, rng=random.Random(1))


async def test_replicas_of_the_settings_are_there_for_good() -> None:
    """Without a lease, with what the settings say of them."""
    core = make_core()
    static = [StaticReplica(id="a", url="http://127.0.0.1:1", model="m", health_path="/v1/models")]
    await register_static(static, core.replicas, EndpointResolver([]), 0.0)
    replica = core.replicas.get("a")
    assert replica is not None and replica.lease_until_s is None
    assert (replica.model, replica.registration.health_path) == ("m", "/v1/models")


async def test_one_that_cannot_be_registered_refuses_the_start() -> None:
    """The sentence names the setting, the URL and the reason."""
    static = [StaticReplica(id="a", url="http://192.0.2.1:1")]
    with pytest.raises(SettingsError, match=r"replicas: got 'http://192\.0\.2\.1:1', expected a replica a that can be"):
        await register_static(static, make_core().replicas, EndpointResolver(["127.0.0.0/8"]), 0.0)


def test_saved_replicas_outside_the_networks_are_forgotten() -> None:
    """The networks may have changed since they were saved."""
    core = make_core()
    for name, host in (("in", "10.0.0.1"), ("out", "192.0.2.1")):
        core.replicas.put(name, Registration(url=f"http://{host}:1"), (host, 1), 0.0)
    forget_unlisted(core.replicas, EndpointResolver(["10.0.0.0/8"]))
    assert [replica.id for replica in core.replicas] == ["in"]
