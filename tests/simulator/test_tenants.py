"""Settings of tenants from files, and where they go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sim_trace import make_conversation, make_trace

from pointsman.router.documents.book import Book
from pointsman.router.fronts.api.key_types import TenantSettings, TenantView
from pointsman.router.tenancy.records import Limits, Tenant
from pointsman.router.tenancy.tenants import TenantTable
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.tenants import SHOWN_ALONE, TenantSet, kept_apart, read_tenants

ACME = Tenant(name="acme", weight=3.0, priority="high", max_priority="high", limits=Limits(tokens_per_minute=1_000))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    return path


def test_a_file_has_the_settings_of_the_api_by_tenant(tmp_path: Path) -> None:
    """A tenant without any has the defaults."""
    found = read_tenants(
        write(
            tmp_path,
            "tenants:\n  acme: {weight: 3, priority: high, max_priority: high, limits: {tokens_per_minute: 1000}}\n"
            "  beta:\n",
        )
    )
    assert found == TenantSet("tenants", (ACME, Tenant(name="beta")))


def test_what_the_list_of_tenants_prints_is_such_a_file(tmp_path: Path) -> None:
    """With names and numbers of keys, which are no settings."""
    body = {"weight": 3.0, "priority": "high", "max_priority": "high", "limits": {"tokens_per_minute": 1_000}}
    listed = {"tenants": [{"name": "acme", "keys": 2, "isolated": False, "model_limits": {}, "note": "", **body}]}
    assert read_tenants(write(tmp_path, json.dumps(listed))).tenants == (ACME,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "tenants: got None, expected the settings of tenants", id="empty"),
        pytest.param("acme: {}", "acme: unknown key", id="no tenants"),
        pytest.param("{tenants: [], next: t9}", "next: more tenants follow on its next page", id="page"),
        pytest.param("tenants: 5", "expected the settings of tenants", id="number"),
        pytest.param(
            "tenants: {acme: {wieght: 3}}", r"tenants\.acme\.wieght: unknown key .did you mean 'weight'", id="key"
        ),
        pytest.param("tenants: {acme: {weight: 0}}", r"tenants\.acme\.weight: got 0", id="weight"),
        pytest.param("tenants: {acme: {priority: urgent}}", r"tenants\.acme\.priority: got 'urgent'", id="class"),
        pytest.param("tenants: {acme: {limits: {x: 1}}}", r"tenants\.acme\.limits\.x: unknown key", id="limit"),
        pytest.param("tenants: {'a b': {}}", "tenants: got 'a b', expected names", id="name"),
        pytest.param("tenants: [{weight: 3}]", r"tenants\[0\]: .*expected a tenant with its name", id="list"),
    ],
)
def test_what_is_no_setting_is_an_error_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    """With flag and file."""
    with pytest.raises(ExperimentError, match=f"--tenants: .*tenants.yaml: .*{says}"):
        read_tenants(write(tmp_path, text))


def test_a_routers_documents_have_them() -> None:
    """The table of tenants reads them as those of the API."""
    book = Book()
    table = TenantTable(book)
    TenantSet("set", (ACME,)).write(book)
    assert table.of("acme") == ACME
    assert table.class_of("acme", "") == 3


def test_turns_that_share_blocks_share_them_apart_too() -> None:
    """A conversation of an isolated tenant keeps its one list; others keep their numbers."""
    alone = replace(make_conversation("s", 0.0, [100, 200]), tenant="alone")
    other = replace(make_conversation("s", 0.0, [100, 200]), tenant="other")
    trace = kept_apart(make_trace(alone, other), frozenset({"alone"}))
    one, two = trace.sessions[0].turns
    assert one.blocks is two.blocks
    assert not set(one.blocks) & set(alone.turns[0].blocks)
    assert trace.sessions[0].id != "s"
    assert trace.sessions[1] == other


def test_the_list_of_tenants_shows_settings_and_what_stands_alone() -> None:
    """A field that the list gets later is a setting, or has to be left out by name."""
    assert set(TenantView.__struct_fields__) - set(SHOWN_ALONE) == set(TenantSettings.__struct_fields__)
