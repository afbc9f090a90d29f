"""Tokens and the list that routers keep of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from pointsman.contract.config import decode
from pointsman.contract.errors import ConfigurationError
from pointsman.contract.tokens import TokenList, TokenRole, hash_token, make_token

HASH = hash_token("pm_x")


def listed(text: str) -> TokenList:
    return decode(yaml.safe_load(text), TokenList, source="tokens.yaml")


def test_tokens_are_long_and_never_the_same() -> None:
    """256 random bits, with a prefix that scanners for leaked secrets know."""
    tokens = {make_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("pm_") and len(token) >= 3 + 43 for token in tokens)


def test_the_list_has_hashes_roles_and_times() -> None:
    """An end may be a time of YAML or a text; roles may be several."""
    (record, other) = listed(f"""
        tokens:
          - {{name: ann, roles: [read, operate], sha256: {HASH}, expires: 2027-01-31T12:00:00Z}}
          - {{name: fleet, roles: [engine], sha256: {"ab" * 32}, expires: "2027-01-31T13:00:00+01:00"}}
    """).tokens
    assert record.roles == (TokenRole.READ, TokenRole.OPERATE)
    assert record.expires == other.expires == datetime(2027, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("{}", "tokens: missing", id="no list"),
        pytest.param("tokens: [{name: a, roles: [], sha256: HASH}]", "tokens[0].roles: got []", id="no role"),
        pytest.param("tokens: [{name: a, roles: [admin], sha256: HASH}]", "'read' or 'operate'", id="unknown role"),
        pytest.param("tokens: [{name: a, roles: [read], sha256: secret}]", "tokens[0].sha256", id="no hash"),
        pytest.param("tokens: [{name: 'a b', roles: [read], sha256: HASH}]", "tokens[0].name", id="name"),
        pytest.param(
            "tokens: [{name: a, roles: [read], sha256: HASH, expires: 2027-01-31}]", "tokens[0].expires", id="a day"
        ),
        pytest.param(
            "tokens: [{name: a, roles: [read], sha256: HASH, expires: '2027-01-31T12:00:00'}]",
            "tokens[0].expires",
            id="a time of no zone",
        ),
        pytest.param("tokens: [{name: a, role: [read], sha256: HASH}]", "did you mean 'roles'", id="misspelt"),
        pytest.param(
            "tokens: [{name: a, roles: [read], sha256: HASH}, {name: b, roles: [read], sha256: HASH}]",
            "tokens[1].sha256",
            id="hash twice",
        ),
        pytest.param(
            f"tokens: [{{name: a, roles: [read], sha256: HASH}}, {{name: a, roles: [read], sha256: '{'0' * 64}'}}]",
            "tokens[1].name",
            id="name twice",
        ),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(text: str, says: str) -> None:
    """With the place in the file."""
    with pytest.raises(ConfigurationError) as refused:
        listed(text.replace("HASH", HASH))
    assert says in str(refused.value) and "tokens.yaml" in str(refused.value)


@pytest.mark.parametrize("token", ["", "pm_é", "\ud800"])
def test_any_text_has_a_hash(token: str) -> None:
    """A guess of odd letters is wrong, not an error."""
    value: Any = hash_token(token)
    assert len(value) == 64
