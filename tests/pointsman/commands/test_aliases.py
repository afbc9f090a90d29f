"""`pointsman aliases`: what is asked of the router, and how an alias is shown."""

from __future__ import annotations

from typing import Any

import pytest
from drawn import assert_fits, drawn, pointsman
from telling_admin import telling_admin

from pointsman.commands.aliases import alias_list, alias_shown, version_of
from pointsman.errors import StartError


def version(model: str, **about: Any) -> dict[str, Any]:
    return {
        "model": model, "stable": False, "weight": 10.0, "withdrawn": False, "share": 0.1, "sessions": 12,
        "sessions_begun": 20, "requests": 100, "errors": 2, "error_share": 0.02, "refused": 0,
        "ttft_ms": {"p50": 120.0, "p95": 200.0, "p99": 420.0}, "replicas": ["b"], "refusing": [],
    } | about  # fmt: skip


def alias(**about: Any) -> dict[str, Any]:
    versions = [version("m-v1", stable=True, share=0.9, requests=0, errors=0, ttft_ms=None), version("m-v2")]
    return {
        "name": "chat", "versions": versions, "paused": False, "override": False, "stop": None, "sessions_moved": 0,
        "recomputed_tokens": 12_345, "version": 3, "author": "ann", "why": "slow start", "warnings": [],
    } | about  # fmt: skip


def test_versions_stand_beside_each_other() -> None:
    """A row each, and what the rollout costs."""
    stop = {"error_share": 0.05, "ttft_p99_ratio": 1.5}
    text = drawn(alias_shown(alias(paused=True, stop=stop, override=True, warnings=["b: do not list chat"])))
    assert_fits(text)
    rows = [line.split() for line in text.splitlines() if line.startswith("m-v")]
    assert rows[0] == ["m-v1", "90.0", "%", "12", "0", "-", "-", "-", "1", "stable"]
    assert rows[1] == ["m-v2", "10.0", "%", "12", "100", "2", "(2.0", "%)", "120", "ms", "420", "ms", "1", "paused"]
    assert "change 3, by ann" in text and "slow start" in text and "12k prompt tokens" in text
    assert "5.0 % more errors or 1.5 x the TTFT p99" in text
    assert "! b: do not list chat" in text


def test_aliases_are_listed_with_their_versions() -> None:
    """Or the command that makes one."""
    text = drawn(alias_list([alias(), alias(name="talk", versions=[version("m-v9", withdrawn=True)])]))
    assert_fits(text)
    assert [line.split()[0] for line in text.splitlines()] == ["alias", "chat", "m-v2", "talk"]
    assert "aliases set" in drawn(alias_list([]))


@pytest.mark.parametrize(
    ("given", "model", "weight"), [("m", "m", 1.0), ("m=5", "m", 5.0), ("a=b=90%", "a=b", 90.0), ("m=0.5", "m", 0.5)]
)
def test_a_version_is_a_model_and_a_weight(given: str, model: str, weight: float) -> None:
    """Whatever stands behind the last sign of equality is the weight."""
    assert version_of(given) == {"model": model, "weight": weight}


def test_a_weight_that_is_no_number_is_refused() -> None:
    """In one sentence."""
    with pytest.raises(StartError, match="MODEL=WEIGHT"):
        version_of("m=much")


def test_each_command_is_one_call() -> None:
    """With the reason and the ETag that were given."""
    answers = {
        "GET /v1/aliases": {"aliases": [alias()]},
        "GET /v1/aliases/chat": alias(),
        "PUT /v1/aliases/chat": alias(),
        **{f"POST /v1/aliases/chat/{step}": alias() for step in ("promote", "pause", "resume", "rollback")},
        "DELETE /v1/aliases/chat": None,
    }
    with telling_admin(answers) as admin:
        for line in (
            "list",
            "show chat",
            "set chat m-v1=90 m-v2=10 --stop-error-share 0.05 --stop-rolls-back --why ten --if-match x",
            "promote chat m-v2 --why good",
            "pause chat",
            "resume chat",
            "rollback chat",
            "remove chat --json",
        ):
            result = pointsman("aliases", *line.split(), "--admin", admin.url)
            assert result.exit_code == 0, (line, result.output)
        asked = [(one.method, one.path, one.body) for one in admin.asked]
        body = {
            "versions": [{"model": "m-v1", "weight": 90.0}, {"model": "m-v2", "weight": 10.0}],
            "override": False,
            "stop": {"error_share": 0.05, "roll_back": True},
        }
        assert asked[2] == ("PUT", "/v1/aliases/chat", body)
        assert (admin.asked[2].query, admin.asked[2].headers["if-match"]) == ({"why": "ten"}, "x")
        assert asked[3] == ("POST", "/v1/aliases/chat/promote", {"model": "m-v2", "why": "good"})
        assert [path for _, path, _ in asked[4:7]] == [f"/v1/aliases/chat/{s}" for s in ("pause", "resume", "rollback")]
        assert asked[7][:2] == ("DELETE", "/v1/aliases/chat")
