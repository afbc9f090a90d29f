"""The catalog: one card for each name the fleet serves."""

from __future__ import annotations

from pointsman.contract.registration import Registration
from pointsman.router.fleet.models import ModelCatalog
from pointsman.router.fleet.replica import ServedNames
from pointsman.router.fleet.replicas import ReplicaRegistry


class Fleet:
    """A registry and its catalog."""

    def __init__(self) -> None:
        self.replicas = ReplicaRegistry(lists_follow=True)
        self.catalog = ModelCatalog(self.replicas, created=7)

    def put(self, name: str, **registration: object) -> None:
        self.replicas.put(name, Registration(url="http://h:1", **registration), ("10.0.0.1", 1), 0.0)  # type: ignore[arg-type]

    def lists(self, name: str, *cards: dict[str, object]) -> None:
        self.catalog.put(name, {str(card["id"]): card for card in cards})
        models = {str(card["id"]): str(card["id"]) for card in cards if not card.get("parent")}
        adapters = frozenset(str(card["id"]) for card in cards if card.get("parent"))
        self.replicas.set_listed(name, ServedNames(models, adapters))


def test_cards_are_shown_as_replicas_gave_them() -> None:
    """Nothing a server says of its models is lost; each name is there once, in order."""
    fleet = Fleet()
    fleet.put("b")
    fleet.put("a")
    qwen = {"id": "qwen", "owned_by": "vllm", "max_model_len": 4096, "permission": [{"allow_logprobs": True}]}
    sql = {"id": "sql", "owned_by": "vllm", "parent": "qwen"}
    fleet.lists("b", {"id": "qwen", "owned_by": "vllm", "max_model_len": 1}, {"id": "llama", "owned_by": "vllm"})
    fleet.lists("a", qwen, sql)
    assert fleet.catalog.cards() == [{"id": "llama", "owned_by": "vllm"}, qwen, sql]
    assert fleet.catalog.card("qwen") == qwen
    assert fleet.catalog.card("gpt-9") is None


def test_a_name_nobody_gave_a_card_for_gets_a_plain_one() -> None:
    """A registered model is listed before its replica was asked."""
    fleet = Fleet()
    fleet.put("a", model="qwen", adapters=["sql"])
    assert fleet.catalog.cards() == [
        {"id": "qwen", "object": "model", "created": 7, "owned_by": "pointsman"},
        {
            "id": "sql", "object": "model", "created": 7, "owned_by": "pointsman", "root": "sql", "parent": "qwen",
        },
    ]  # fmt: skip


def test_what_a_registration_leaves_out_is_not_shown() -> None:
    """Its owner chose one of the server's models."""
    fleet = Fleet()
    fleet.put("a", model="qwen")
    fleet.lists("a", {"id": "qwen", "owned_by": "x"}, {"id": "llama", "owned_by": "x"})
    assert [card["id"] for card in fleet.catalog.cards()] == ["qwen"]


def test_cards_go_with_their_replica() -> None:
    """Nothing is listed that nobody serves."""
    fleet = Fleet()
    fleet.put("a")
    fleet.lists("a", {"id": "qwen", "owned_by": "x"})
    fleet.replicas.remove("a")
    fleet.catalog.forget("a")
    assert fleet.catalog.cards() == []


def test_the_longest_context_of_a_name_is_known() -> None:
    """Of several replicas the longest, an adapter's is its model's, of an unknown name that of any; what no engine can
    serve is not believed."""
    fleet = Fleet()
    context = fleet.catalog.context_tokens
    assert context("qwen") == 0
    fleet.put("a")
    fleet.put("b")
    fleet.lists("a", {"id": "qwen", "max_model_len": 4096}, {"id": "sql", "parent": "qwen"})
    fleet.lists("b", {"id": "qwen", "max_model_len": 8192}, {"id": "llama", "max_model_len": 131_072})
    assert [context(name) for name in ("qwen", "sql", "llama", "gpt-9", "")] == [8192, 4096, 131_072, 131_072, 131_072]
    fleet.catalog.forget("b")
    assert (context("qwen"), context("llama"), context("")) == (4096, 4096, 4096)
    for odd in (2**63, -1, 0, "4096", None, True, 1e9):
        fleet.lists("a", {"id": "qwen", "max_model_len": odd})
        assert context("qwen") == 0
