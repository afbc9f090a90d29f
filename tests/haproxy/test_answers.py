"""Answers of HAProxy's own."""

from __future__ import annotations

import json

import pytest

from pointsman.haproxy.answers import ERROR_BODIES, REFUSALS


@pytest.mark.parametrize("bodies", [ERROR_BODIES, REFUSALS])
def test_errors_have_the_shape_clients_read(bodies: dict[int, str]) -> None:
    """vLLM's and OpenAI's error object, with nothing that ends HAProxy's quotes."""
    for status, body in bodies.items():
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert json.loads(body)["error"]["code"] == status
        assert "'" not in body
