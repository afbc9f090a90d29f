"""Reading a server's list of models."""

from __future__ import annotations

import json

import pytest

from pointsman.router.errors import ScrapeError
from pointsman.router.fleet.replica import ServedNames
from pointsman.router.watch.model_list import MAX_CARDS, read_models


def listing(*cards: object) -> bytes:
    return json.dumps({"object": "list", "data": cards}).encode()


def test_a_parent_makes_an_adapter() -> None:
    """Aliases of a model are models; cards stay as they came."""
    model = {"id": "llama", "object": "model", "parent": None, "max_model_len": 4096}
    adapter = {"id": "sql", "object": "model", "parent": "llama", "root": "/adapters/sql"}
    found = read_models(listing(model, {"id": "alias", "root": "llama"}, adapter))
    assert found.names == ServedNames({"llama": "llama", "alias": "llama"}, frozenset({"sql"}))
    assert found.cards == {"llama": model, "alias": {"id": "alias", "root": "llama"}, "sql": adapter}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not found", id="no JSON"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"error": {}}', id="no data"),
        pytest.param(listing("llama"), id="a name alone"),
        pytest.param(listing({"object": "model"}), id="no id"),
        pytest.param(listing({"id": ""}), id="an empty id"),
        pytest.param(listing({"id": "x" * 257}), id="a long id"),
        pytest.param(listing(*({"id": str(n)} for n in range(MAX_CARDS + 1))), id="too many"),
    ],
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """Nothing half read."""
    with pytest.raises(ScrapeError):
        read_models(body)
