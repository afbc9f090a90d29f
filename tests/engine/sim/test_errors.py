"""Refusals as bytes."""

from __future__ import annotations

import json

from pointsman.engine.sim.errors import RequestError


def test_a_refusal_has_vllms_shape() -> None:
    """message, type, param, code, in this order."""
    error = RequestError(404, "NotFoundError", "The model `nope` does not exist. Valid aliases: tiny.", "model")
    assert error.body() == (
        b'{"error":{"message":"The model `nope` does not exist. Valid aliases: tiny.","type":"NotFoundError",'
        b'"param":"model","code":404}}'
    )


def test_a_lone_surrogate_is_quoted_back_escaped() -> None:
    """UTF-8 has no way to say it."""
    assert "\\ud800" in json.loads(RequestError(400, "Bad Request", "\ud800").body())["error"]["message"]
