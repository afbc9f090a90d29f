"""Documents that calls of the admin API write."""

from __future__ import annotations

from typing import Any

import pytest
from router_fixture import client_of, running_router

import pointsman.router.documents.book as module


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/keys", {"tenant": "acme"}),
        ("PUT", "/v1/tenants/acme", {}),
        ("PUT", "/v1/aliases/chat", {"versions": [{"model": "m"}]}),
    ],
)
async def test_there_is_no_room_beyond_the_largest_number_of_documents(
    method: str, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that would make one more is answered 507 and makes none."""
    monkeypatch.setattr(module, "MAX_DOCUMENTS", 0)
    async with running_router() as router, client_of(router) as client:
        answer = await client.request(method, path, json=body)
        assert answer.status_code == 507 and "the most" in answer.json()["detail"]
        assert router.core.book.names() == []


async def test_a_document_says_who_wrote_it_and_why() -> None:
    """Beside its content."""
    async with running_router() as router, client_of(router) as client:
        made = await client.put("/v1/aliases/chat?why=ten", json={"versions": [{"model": "m"}]})
        assert made.status_code == 201
        document = router.core.book.get("alias/chat")
        assert document is not None and document.about.keys() == {"author", "why"} and document.about["why"] == "ten"
