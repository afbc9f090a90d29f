"""docs/admin-api.md: every endpoint has a command, and every command has the answer that the page shows."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import urlsplit

from api_page import as_shown, ask, differs, running_example, shown
from plain_words import complaint

from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.table import ENDPOINTS

OPERATIONS = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS} | {("GET", "/openapi.json")}


def operation(method: str, url: str) -> tuple[str, str]:
    """The operation a command calls, with its path as the table has it."""
    asked = urlsplit(url).path
    for known, path in OPERATIONS:
        if known == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), asked):
            return known, path
    raise AssertionError(f"{method} {asked}: no such operation")


def test_every_operation_has_a_command() -> None:
    """An endpoint that is added without a line on the page is named here."""
    assert {operation(one.curl.method, one.curl.url) for one in shown()} == OPERATIONS


async def test_the_commands_answer_what_the_page_shows() -> None:
    """In the order of the page; numbers, digests and times may differ, fields and words may not."""
    async with running_example() as (client, driver):
        for command in shown():
            answer = await ask(client, driver, command.curl)
            where = command.curl.where
            assert answer.is_success or "kv_cots" in where, f"{where}: {answer.text}"
            if command.pipe.startswith("jq") and shutil.which("jq") is None:
                continue
            now = as_shown(command, answer)
            if now.startswith(("{", "[")):
                assert not (wrong := differs(json.loads(command.answer), json.loads(now))), f"{where}: {wrong}"
            else:
                assert command.answer == now, f"{where}: write it again, see tests/support/api_page.py"


def test_a_changed_answer_is_noticed() -> None:
    """A field that came or went, another word, another length; not another number."""
    assert not differs({"a": 1, "b": ["x"]}, {"a": 2.5, "b": ["x"]})
    assert differs({"a": 1}, {"a": 1, "b": 2})
    assert differs({"a": "up"}, {"a": "down"})
    assert differs({"a": [1]}, {"a": [1, 2]})
    assert differs({"a": 1}, {"a": "1"})
    assert differs({"a": True}, {"a": False})


def test_every_description_stands_alone() -> None:
    """In generated clients a field's description is read without its neighbours."""
    described = describe_api(ENDPOINTS, "1")
    fields = {
        f"{name}.{key}": value["description"]
        for name, schema in described["components"]["schemas"].items()
        for key, value in schema.get("properties", {}).items()
        if "description" in value
    }
    assert len(fields) > 40
    assert not [f"{field}: {wrong}" for field, text in fields.items() if (wrong := complaint(text))]
