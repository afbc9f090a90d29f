"""`pointsman pools`: pools as their drivers report them."""

from __future__ import annotations

from typing import Any

from drawn import assert_fits, drawn, pointsman
from telling_admin import telling_admin

from pointsman.commands.pools import pool_facts, pool_list


def pool(name: str = "chat", **about: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "Qwen/Qwen3-8B",
        "role": "both",
        "replicas": 2,
        "replicas_max": 512,
        "ready": 1,
        "state": "scaling",
        "revision": "5f1d",
        "error": "",
        "members": [],
        "fleet": "prod",
    } | about


MEMBER = {"id": "chat-1", "state": "ready", "revision": "5f1d", "deaths": 1, "urls": ["http://a:1", "http://a:2"]}


def test_each_pool_is_a_row_and_a_refused_configuration_stands_below() -> None:
    """Of a traceback its last line, which says what it was."""
    error = 'Traceback (most recent call last):\n  File "x"\nValueError: no such model\n'
    text = drawn(pool_list([pool(), pool("a-pool-with-a-long-name-for-a-model", state="refused", error=error)]))
    assert_fits(text)
    assert text.splitlines()[1].split() == [
        *("chat", "scaling", "1", "2", "512", "both", "Qwen/Qwen3-8B", "prod", "5f1d")
    ]
    assert text.endswith("! a-pool-with-a-long-name-for-a-model: ValueError: no such model\n")


def test_no_pool_says_why() -> None:
    """Replicas may be there all the same."""
    assert "one by one" in drawn(pool_list([]))


def test_a_pool_is_described_with_its_members() -> None:
    """Of a group of several ranks the first address, and how many more."""
    text = drawn(pool_facts(pool(members=[MEMBER, MEMBER | {"id": "chat-2", "urls": []}])))
    assert "1 ready of 2, at most 512" in text and "http://a:1 and 1 more" in text
    assert "member" not in drawn(pool_facts(pool()))


def test_a_pool_is_asked_for_by_name() -> None:
    """Without a name all are listed."""
    with telling_admin({"GET /v1/pools": {"pools": [pool()]}, "GET /v1/pools/chat": pool()}) as admin:
        assert pointsman("pools", "--admin", admin.url).exit_code == 0
        assert pointsman("pools", "chat", "--admin", admin.url).stdout.startswith("chat  scaling")
