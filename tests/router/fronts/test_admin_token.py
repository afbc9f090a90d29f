"""The admin token: what a wrong one costs, and whom."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from pointsman.router.fronts import admin_token
from pointsman.router.fronts.admin_token import AdminTokens


async def test_wrong_tokens_are_logged_together() -> None:
    """The first at once, then one line a second at most, with how many there were."""
    token = AdminTokens("s3cret")
    with capture_logs() as lines:
        for _ in range(1000):
            assert not token.caller("wrong", "10.0.0.1")
        assert [line["count"] for line in lines] == [1]
        token._log_timer.cancel()  # type: ignore[union-attr]
        token._log()  # as the timer does
        assert [line["count"] for line in lines] == [1, 999]
        assert lines[-1]["last_peer"] == "10.0.0.1"
        token._log()
        assert len(lines) == 2
        assert token._log_timer is None
    assert token.wrong == 1000


async def test_no_token_admits_everybody() -> None:
    """And counts nothing."""
    token = AdminTokens("")
    assert token.caller("", "") and token.caller("anything", "")
    assert not token.required and token.wrong == 0


@pytest.mark.parametrize("given", ["", "s3cre", "s3cret ", "S3CRET", "s3crét", "\x00"])
async def test_only_the_token_itself_is_admitted(given: str) -> None:
    """Letters that are no ASCII are wrong, not an error."""
    token = AdminTokens("s3cret")
    assert token.caller("s3cret", "") and not token.caller(given, "")
    token._log_timer.cancel()  # type: ignore[union-attr]


async def test_delayed_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is not kept; one that leaves makes room."""
    monkeypatch.setattr(admin_token, "MAX_DELAYED", 2)
    monkeypatch.setattr(admin_token, "DELAY_S", 3600.0)
    token = AdminTokens("s3cret")
    delayed = [asyncio.create_task(token.slow_down()) for _ in range(2)]
    await asyncio.sleep(0)
    await token.slow_down()
    assert not any(task.done() for task in delayed)
    for task in delayed:
        task.cancel()
    await asyncio.wait(delayed)
    again = asyncio.create_task(token.slow_down())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
