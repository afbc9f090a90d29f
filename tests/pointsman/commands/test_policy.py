"""`pointsman policy`: the live policy as YAML, what a change made different, revisions and the way back."""

from __future__ import annotations

import asyncio
from datetime import UTC
from pathlib import Path
from typing import Any

import yaml
from drawn import assert_fits, drawn, pointsman
from router_fixture import running_router
from telling_admin import Told, problem, telling_admin

from pointsman.commands.policy import as_yaml, changes_shown, differences, history_shown

KV_COST = {"policy": "kv_cost", "tie_ms": 5.0, "admission": None}


def revision(number: int, **about: Any) -> dict[str, Any]:
    return {
        "revision": number,
        "at": "2026-11-30T12:04:31.213Z",
        "author": "ops",
        "why": "",
        "etag": '"7d3f"',
        "document": KV_COST,
        "active": False,
        "tried": False,
    } | about


def test_the_live_policy_is_yaml_that_set_takes(tmp_path: Path) -> None:
    """With its version as a comment."""
    with telling_admin(
        {"GET /v1/policy": Told(KV_COST, headers={"etag": '"7"', "x-pointsman-revision": "3"})}
    ) as admin:
        done = pointsman("policy", "get", "--admin", admin.url)
    assert done.stdout.startswith('# revision 3, ETag "7"\n') and yaml.safe_load(done.stdout) == KV_COST


def test_an_earlier_revision_says_whose_it_was() -> None:
    """In the same form."""
    answer = revision(5, why="longer prompts")
    with telling_admin({"GET /v1/policy/revisions/5": answer}) as admin:
        done = pointsman("policy", "get", "5", "--admin", admin.url)
    head = done.stdout.splitlines()[0]
    assert head.startswith("# revision 5, 2026-1") and head.endswith("by ops: longer prompts")
    assert yaml.safe_load(done.stdout) == KV_COST


def test_a_change_says_what_it_made_different(tmp_path: Path) -> None:
    """Sent with its reason and the version it is meant for; warnings go to standard error."""
    path = tmp_path / "policy.yaml"
    path.write_text("policy: kv_cost\ntie_ms: 8\n")
    applied = Told(
        KV_COST | {"tie_ms": 8.0, "warnings": ["HAProxy looks less far"]}, headers={"x-pointsman-revision": "4"}
    )
    with telling_admin({"GET /v1/policy": KV_COST, "PUT /v1/policy": applied}) as admin:
        done = pointsman("policy", "set", str(path), "--why", "try 8", "--if-match", '"7"', "--admin", admin.url)
        put = admin.asked[-1]
    assert done.exit_code == 0 and done.stderr == "warning: HAProxy looks less far\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "policy kv_cost r4 is live; changed:" and lines[2].split() == ["tie_ms", "5.0", "8.0"]
    assert (put.query, put.body, put.headers["if-match"]) == (
        {"why": "try 8"},
        {"policy": "kv_cost", "tie_ms": 8},
        '"7"',
    )


def test_a_stale_version_is_exit_code_1() -> None:
    """Somebody else was faster."""
    answers = {"GET /v1/policy": KV_COST, "PUT /v1/policy": problem(412, 'If-Match is "7", live is "8"')}
    with telling_admin(answers) as admin:
        done = pointsman("policy", "set", "random", "--if-match", '"7"', "--admin", admin.url)
    assert done.exit_code == 1 and 'live is "8"' in done.stderr and done.stdout == ""


def test_a_file_that_is_no_document_is_exit_code_2(tmp_path: Path) -> None:
    """Named with what is wrong in it, and nobody is asked."""
    path = tmp_path / "policy.yaml"
    path.write_text("- random\n")
    done = pointsman("policy", "set", str(path), "--admin", "127.0.0.1:1")
    assert done.exit_code == 2 and str(path) in done.stderr and "mapping" in done.stderr


def test_differences_are_found_at_any_depth() -> None:
    """A side that has no such key is absent, which is not null."""
    before = {"policy": "a", "fallback": {"policy": "x", "n": 1}, "gone": None}
    after = {"policy": "a", "fallback": {"policy": "y", "n": 1}, "new": [1]}
    found = differences(before, after)
    assert found == [
        {"key": "fallback.policy", "from": "x", "to": "y"},
        {"key": "gone", "from": None},
        {"key": "new", "to": [1]},
    ]
    assert drawn(changes_shown(found)).split() == [
        *("key", "from", "to", "fallback.policy", "x", "y"),
        *("gone", "null", "-", "new", "-", "[1]"),
    ]
    assert drawn(changes_shown([])).strip() == "nothing"


def test_history_names_author_and_reason() -> None:
    """The live one is marked; long reasons wrap."""
    revisions = [
        revision(17, active=True, why="longer prompts since Monday, " * 4, author="somebody@a.long.name.example.org"),
        revision(16, tried=True, why="10 % of new sessions"),
        revision(1, author="configuration"),
    ]
    text = drawn(history_shown(revisions, UTC))
    assert_fits(text)
    lines, words = text.splitlines(), " ".join(text.split())
    assert lines[1].startswith("r17 *     2026-11-30 12:04:31  ") and words.count("longer prompts") == 4
    assert "tried by a rollout: 10 % of new sessions" in words and lines[-1].split()[-1] == "kv_cost"


def test_rollback_goes_to_a_revision_or_to_the_one_before() -> None:
    """With a reason."""
    answers = {"GET /v1/policy": KV_COST, "POST /v1/policy/rollback": KV_COST | {"tie_ms": 2.0}}
    with telling_admin(answers) as admin:
        for words in (("3", "--why", "slow"), ()):
            assert pointsman("policy", "rollback", *words, "--admin", admin.url).exit_code == 0
        bodies = [asked.body for asked in admin.asked if asked.method == "POST"]
    assert bodies == [{"why": "slow", "revision": 3}, {"why": ""}]


def test_diff_asks_for_two_revisions() -> None:
    """Or for the live one and that before."""
    answer = {"from": 16, "to": 17, "changes": [{"key": "tie_ms", "from": 5.0, "to": 8.0}]}
    with telling_admin({"GET /v1/policy/diff": answer}) as admin:
        done = pointsman("policy", "diff", "16", "17", "--admin", admin.url)
        assert done.stdout.splitlines()[0] == "from revision 16 to 17:" and "tie_ms" in done.stdout
        assert pointsman("policy", "diff", "--admin", admin.url).exit_code == 0
        assert [asked.query for asked in admin.asked] == [{"from": "16", "to": "17"}, {}]


def test_a_document_in_yaml_keeps_its_order() -> None:
    """The policy's name first, as people write it."""
    assert as_yaml({"policy": "kv_cost", "a": None}) == "policy: kv_cost\na: null\n"


async def test_a_real_router_is_changed_and_changed_back() -> None:
    """What `get` printed, `set` takes."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        where = ("--admin", str(router.addresses["admin"]))

        async def run(*words: str) -> str:
            done = await asyncio.to_thread(pointsman, "policy", *words, *where)
            assert done.exit_code == 0, done.output
            return done.output

        before = await run("get")
        assert "to" in await run("set", '{"policy": "kv_cost", "tie_ms": 8}', "--dry-run")
        assert await run("get") == before
        assert "least_load" in await run("set", "least_load", "--why", "a test")
        history = await run("history")
        assert "a test" in history and [line.split()[0] for line in history.splitlines()[1:]] == ["r2", "r1"]
        assert "kv_cost" in await run("diff", "1", "2")
        await run("rollback")
        assert yaml.safe_load(await run("get")) == yaml.safe_load(before)
