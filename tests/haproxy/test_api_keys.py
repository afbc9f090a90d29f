"""The tenant of an API key, by HAProxy's map."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pointsman.haproxy.api_keys import find_tenant, key_hashes
from pointsman.haproxy.lookup_arguments import PlainRequest


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys_map(tmp_path: Path) -> Path:
    path = tmp_path / "keys.map"
    path.write_text(f"# keys\n\n{digest('sk-a')} acme\n  {digest('sk-b')}   beta corp \n{digest('sk-a')} later\n")
    return path


@pytest.mark.parametrize(
    ("headers", "tenant"),
    [
        pytest.param((("authorization", "Bearer sk-a"),), "acme", id="a bearer token, the first line of two"),
        pytest.param((("Authorization", "Bearer   sk-b x"),), "beta corp", id="the second word"),
        pytest.param((("x-api-key", "sk-b"),), "beta corp", id="as Anthropic's client sends it"),
        pytest.param((("authorization", "Bearer no"), ("x-api-key", "sk-a")), "acme", id="the other one"),
        pytest.param((("x-api-key", "sk-b"), ("authorization", "Bearer sk-a")), "acme", id="the bearer token first"),
        pytest.param((("authorization", "sk-a"),), "", id="no scheme"),
        pytest.param((("authorization", "Bearer no"),), "", id="an unknown key"),
    ],
)
def test_the_tenant_is_that_of_the_key(keys_map: Path, headers: tuple[tuple[str, str], ...], tenant: str) -> None:
    assert find_tenant(keys_map, key_hashes(PlainRequest("/", headers))) == tenant


def test_no_key_is_no_tenant(keys_map: Path) -> None:
    assert find_tenant(keys_map, key_hashes(PlainRequest("/"))) == ""


def test_a_map_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        find_tenant(tmp_path / "away", ["x"])
