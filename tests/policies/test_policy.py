"""What plain and composed policies derive from their configuration and fallback."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import pytest

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked
from pointsman.policies.policy import ComposedPolicy, Context, Needs, PlainPolicy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures


class LeafConfig(PolicyConfig, frozen=True, kw_only=True):
    depth: int = 1


class Leaf(PlainPolicy[LeafConfig]):
    name: ClassVar[str] = "leaf"
    Config: ClassVar[type[PolicyConfig]] = LeafConfig
    closed = 0

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        return []

    def close(self) -> None:
        self.closed += 1


class NodeConfig(PolicyConfig, frozen=True, kw_only=True):
    width: int = 2
    fallback: PolicyDocument


class Node(ComposedPolicy[NodeConfig]):
    name: ClassVar[str] = "node"
    Config: ClassVar[type[PolicyConfig]] = NodeConfig

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        return self.fallback.rank(features, candidates, context)


def test_composed_policy_takes_after_its_fallback() -> None:
    """Needs and the life of a pin come from below unless the policy says otherwise."""
    leaf = Leaf(LeafConfig())
    leaf.needs, leaf.pin_ttl_s = Needs.PIN | Needs.TOKENS, 60.0
    node = Node(NodeConfig(fallback={"policy": "leaf"}), leaf)
    assert node.needs == Needs.PIN | Needs.TOKENS
    assert node.pin_ttl_s == 60.0


def test_composed_policy_describes_its_fallback_in_full() -> None:
    """The description nests the fallback's own, defaults filled in, instead of what was configured."""
    node = Node(NodeConfig(fallback={"policy": "leaf"}), Leaf(LeafConfig(depth=5)))
    assert node.describe() == {"policy": "node", "width": 2, "fallback": {"policy": "leaf", "depth": 5}}


def test_composed_policy_closes_its_fallback() -> None:
    """The fallback is owned: closed once, with its owner."""
    leaf = Leaf(LeafConfig())
    Node(NodeConfig(fallback={"policy": "leaf"}), leaf).close()
    assert leaf.closed == 1


def test_configuration_is_frozen_and_strict() -> None:
    """A configuration cannot change under a policy that runs, and decodes no key it does not know."""
    with pytest.raises(AttributeError):
        LeafConfig().depth = 3  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field `deep`"):
        msgspec.convert({"deep": 1}, LeafConfig)


def test_repr_shows_the_configuration() -> None:
    """A policy in a log line says how it is configured."""
    assert repr(Leaf(LeafConfig(depth=3))) == "Leaf(LeafConfig(depth=3))"
