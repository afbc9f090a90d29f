"""`pointsman replicas`, `drain`, `undrain`, `reset`: tables, facts, sentences."""

from __future__ import annotations

import asyncio
from datetime import UTC
from pathlib import Path

from drawn import assert_fits, drawn, pointsman
from golden import assert_golden
from router_fixture import register, running_router
from shown_things import DOWN, EJECTED, NOW, REPLICAS, replica
from telling_admin import Told, problem, telling_admin

from pointsman.commands.replicas import changed, replica_facts, replica_list

GOLDEN = Path(__file__).parent / "golden"


def test_replicas_are_a_table_and_what_is_wrong_stands_below() -> None:
    """Long names are shortened, reasons are not."""
    text = drawn(replica_list(REPLICAS, NOW))
    assert_golden(GOLDEN / "replicas.txt", text)
    assert_fits(text)


def test_a_replica_is_described_with_why_it_is_out() -> None:
    """And with HAProxy's last check."""
    text = drawn(replica_facts(EJECTED, NOW, UTC)) + "\n" + drawn(replica_facts(DOWN, NOW, UTC)) + "\n"
    text += drawn(replica_facts(REPLICAS[2], NOW, UTC))
    assert_golden(GOLDEN / "replica.txt", text)
    assert_fits(text)


def test_an_empty_fleet_says_how_to_fill_it() -> None:
    """And a filter that matches nothing says only that."""
    assert "docs/how-to-add-endpoints.md" in drawn(replica_list([], NOW))
    assert drawn(replica_list([], NOW, chosen=True)) == "no replica matches\n"


def test_columns_without_a_value_are_left_out() -> None:
    """A router of an earlier version says less."""
    earlier = {
        name: value
        for name, value in replica("chat-1").items()
        if name not in ("since", "why", "last_check", "kv", "engine", "hit_rate", "hit_rate_predicted", "keys")
    }
    assert drawn(replica_list([earlier], NOW)).split() == [
        *("replica", "state", "in", "flight", "sessions", "model"),
        *("chat-1", "up", "23", "120", "qwen3-8b"),
    ]
    assert "KV" not in drawn(replica_facts(earlier, NOW, UTC))


def test_a_change_is_one_line_with_the_way_back() -> None:
    """Streams go on, and that is said."""
    assert drawn(changed(replica("chat-4", "draining", in_flight=3))) == (
        "chat-4  draining  3 requests in flight finish; `pointsman undrain chat-4` ends the drain\n"
    )
    assert drawn(changed(replica("chat-4"))) == "chat-4  up\n"


def test_changes_call_their_operations() -> None:
    """By the id of the replica."""
    answers = {f"POST /v1/replicas/r/{change}": replica("r") for change in ("drain", "undrain", "reset")}
    with telling_admin(answers) as admin:
        for change in ("drain", "undrain", "reset"):
            assert pointsman(change, "r", "--admin", admin.url).exit_code == 0
        assert [asked.path.rpartition("/")[2] for asked in admin.asked] == ["drain", "undrain", "reset"]


def test_json_is_the_answer_itself() -> None:
    """Every byte, and of a refusal the problem document."""
    body = b'{"replicas":[ {"id" : "\xc3\xa9"} ]}'
    with telling_admin({"GET /v1/replicas": Told(body), "GET /v1/replicas/x": problem(404, "not registered")}) as admin:
        listed = pointsman("replicas", "--json", "--admin", admin.url)
        assert listed.stdout_bytes == body + b"\n" and listed.exit_code == 0
        missing = pointsman("replicas", "x", "--json", "--admin", admin.url)
        assert '"status": 404' in missing.stdout and missing.stderr == "pointsman: not registered\n"
        assert missing.exit_code == 1


async def test_a_real_router_is_asked() -> None:
    """List, describe, drain; an unknown replica is exit code 1."""
    async with running_router() as router:
        await register(router, "a", "b", model="m")
        admin = ("--admin", str(router.addresses["admin"]))

        async def run(*words: str) -> tuple[int, str]:
            done = await asyncio.to_thread(pointsman, *words, *admin)
            return done.exit_code, done.output

        code, listed = await run("replicas")
        assert code == 0 and [line.split()[:2] for line in listed.splitlines()[1:]] == [["a", "up"], ["b", "up"]]
        assert "draining" in (await run("drain", "b"))[1]
        code, described = await run("replicas", "b")
        assert code == 0 and described.startswith("b  draining") and "http://127.0.0.1:2" in described
        assert await run("replicas", "c") == (1, "pointsman: replica 'c' is not registered\n")
