"""Documents that calls of the admin API write."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from router_fixture import client_of, running_router

import pointsman.router.documents.book as module
from pointsman.router.documents.document import Document
from pointsman.router.documents.file import DocumentFile

CALLS = pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/keys", {"tenant": "acme"}),
        ("PUT", "/v1/tenants/acme", {}),
        ("PUT", "/v1/aliases/chat", {"versions": [{"model": "m"}]}),
    ],
)


@CALLS
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


@CALLS
async def test_a_document_is_on_disk_before_its_call_is_answered(
    method: str, path: str, body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the disk is."""
    saved: list[Document] = []

    def save(self: DocumentFile, documents: Iterable[Document]) -> None:
        time.sleep(0.1)
        saved.extend(documents)

    monkeypatch.setattr(DocumentFile, "save", save)
    kept = {"documents_file": str(tmp_path / "documents.db")}
    async with running_router(**kept) as router, client_of(router) as client:
        assert (await client.request(method, path, json=body)).is_success
        assert [document.name for document in saved] == router.core.book.names() != []
