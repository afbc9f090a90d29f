"""What changes while an edge serves, and must not be forgotten: the live policy's window, and sessions' pins."""

from __future__ import annotations

import signal

import pytest
from edge import RunningEdge, running_up, until

from pointsman.haproxy.config import PREFIX_WINDOW_BYTES, SMALL_WINDOW_BYTES
from pointsman.router.fleet.pin_journal import PinJournal

pytestmark = [pytest.mark.e2e, pytest.mark.system]

ENGINE = {"timing": "dense-h100", "mean_output_tokens": 0}
HEAD = "The harbour's rules apply to all who enter it. " * 850
"""40,000 bytes that all prompts begin with."""


async def asked(edge: RunningEdge, number: int) -> str:
    """The replica that a prompt of 100 kB went to."""
    answer = await edge.chat(HEAD + f" question {number} " * 3750, max_tokens=1)
    assert answer.status_code == 200, answer.text
    replica: str = answer.headers["x-pointsman-replica"]
    return replica


async def window(edge: RunningEdge) -> float:
    return (await edge.metrics())["pointsman_haproxy_body_window_bytes"]


async def test_a_policy_put_live_that_goes_by_prompts_gets_its_window() -> None:
    """An edge begun with least_load is told kv_cost: the answer warns, HAProxy is reloaded within seconds, and 20 of 20
    prompts that part after 40 kB go where they are resident."""
    async with running_up(4, "--policy", "least_load", engine=ENGINE) as edge:
        assert await window(edge) == SMALL_WINDOW_BYTES
        answer = await edge.put_policy({"policy": "kv_cost"})
        assert answer.status_code == 200
        assert len(answer.json()["warnings"]) == 1

        async def reloaded() -> bool:
            return await window(edge) == PREFIX_WINDOW_BYTES

        await until(reloaded)
        assert "warnings" not in (await edge.put_policy({"policy": "kv_cost"})).json()
        first = [await asked(edge, number) for number in range(20)]
        again = [await asked(edge, number) for number in range(20)]
        assert sum(map(str.__eq__, first, again)) == 20, (first, again)
        assert len(set(first)) > 1


async def test_a_window_that_the_file_sets_is_kept() -> None:
    """Whoever chose one is told, and HAProxy is not reloaded."""
    haproxy = {"body_window_bytes": 32_768}
    async with running_up(1, "--policy", "least_load", haproxy=haproxy) as edge:
        assert len((await edge.put_policy({"policy": "kv_cost"})).json()["warnings"]) == 1
        edge.process.send_signal(signal.SIGHUP)

        async def reloaded() -> bool:
            return (await edge.metrics())["pointsman_haproxy_restarts_total"] >= 1

        await until(reloaded)
        assert await window(edge) == 32_768


async def test_sessions_stay_where_they_are_when_the_router_is_killed() -> None:
    """80 sessions over 8 replicas, SIGKILL a second after the last of them: 80 of 80 have the replica they had."""
    async with running_up(8, "--policy", "session_affinity") as edge:

        async def homes() -> list[str]:
            answers = [await edge.chat(session=f"s{number}") for number in range(80)]
            assert "fail-open" not in {answer.headers["x-pointsman-reason"] for answer in answers}
            return [answer.headers["x-pointsman-replica"] for answer in answers]

        before = await homes()
        assert len(set(before)) == 8
        journal = PinJournal(edge.run_dir / "state.json.pins")

        async def saved() -> bool:
            return len({pin.session for pin in journal.load()[0]}) == 80

        await until(saved)
        router = edge.router()
        router.kill()
        router.wait()

        async def back() -> bool:
            # HAProxy asks once its check of the router passes; the router decides once it saw HAProxy's servers.
            return (await edge.chat(session="s0")).headers["x-pointsman-reason"] == "session-pin"

        await until(back)
        assert await homes() == before
