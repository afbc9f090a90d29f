"""A replica that tells routers it is there, against an admin API that can go away and come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from admin_stub import admin

from pointsman.contract.registration import Registration
from pointsman.engine.registration import Registrar, Renewal
from pointsman.engine.transport import RENEWED_FOR_S


@asynccontextmanager
async def registered(
    *urls: str, token: str = "", ttl_s: float = 10.0, born_ms: int = 0, renewals: Sequence[Renewal] = ()
) -> AsyncIterator[Registrar]:
    """A registrar that runs, and withdraws at the end."""
    registration = Registration(url="http://10.0.0.1:8000", model="tiny", ttl_s=ttl_s, born_ms=born_ms)
    registrar = Registrar(urls, token, "r1", registration, heartbeat_s=0.02, renewals=renewals)
    registrar.start()
    try:
        yield registrar
    finally:
        await registrar.withdraw()


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the registration said. The routers played here are servers that log too, once another test turned it on."""
    return [record.getMessage() for record in caplog.records if record.name == "pointsman.registration"]


async def test_a_replica_registers_and_renews() -> None:
    """The same PUT again and again: url, model, lease."""
    async with admin() as router, registered(router.url + "/", ttl_s=7.0) as registrar:
        await router.wait_said(3)
        assert router.said[:3] == router.said[:1] * 3
        method, path, body, _ = router.said[0]
        assert (method, path) == ("PUT", "r1")
        assert msgspec.convert(body, Registration) == Registration(url="http://10.0.0.1:8000", model="tiny", ttl_s=7.0)
        await registrar.wait_registered()


async def test_leaving_withdraws() -> None:
    """The last word is DELETE."""
    async with admin() as router:
        async with registered(router.url):
            await router.wait_said(1)
        assert router.said[-1][:2] == ("DELETE", "r1")


async def test_an_earlier_life_is_told_that_it_is_superseded(caplog: pytest.LogCaptureFixture) -> None:
    """Each call says which life asks. A router that has a later one answers 409: whoever runs this one learns of it,
    and what it says on leaving is no news."""
    caplog.set_level(logging.WARNING, logger="pointsman.registration")
    async with admin() as router:
        async with registered(router.url, born_ms=5) as registrar:
            await registrar.wait_registered()
            assert router.said[0][2]["born_ms"] == 5
            assert not registrar.superseded
            router.status = 409
            while not registrar.superseded:
                await asyncio.sleep(0)
            assert await registrar.drain()
        assert [said[:2] for said in router.said[-2:]] == [("POST", "r1/drain?born_ms=5"), ("DELETE", "r1?born_ms=5")]
    assert len(own_lines(caplog)) == 1


async def test_the_token_goes_with_every_call() -> None:
    """PUT and DELETE alike."""
    async with admin() as router:
        async with registered(router.url, token="secret"):
            await router.wait_said(1)
        assert {authorization for *_, authorization in router.said} == {"Bearer secret"}


async def test_draining_is_asked_of_every_router() -> None:
    """POST .../drain at both; the registration goes on."""
    async with admin() as one, admin() as two, registered(one.url, two.url) as registrar:
        await registrar.wait_registered()
        await registrar.drain()
        for router in (one, two):
            assert ("POST", "r1/drain", None, "") in router.said


async def test_a_router_that_comes_back_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    """Away for many tries: one line when it goes, one when it is back, none for the tries between."""
    caplog.set_level(logging.INFO, logger="pointsman.registration")
    async with admin() as router:
        async with registered(router.url) as registrar:
            await registrar.wait_registered()
            await router.stop()
            # Something that hangs up takes the port, and counts.
            tries = asyncio.Semaphore(0)

            def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()
                tries.release()

            other = await asyncio.start_server(hang_up, "127.0.0.1", router.port)
            for _ in range(4):
                await tries.acquire()
            other.close()
            await other.wait_closed()
            await router.start()
            await registrar.wait_registered()
        lines = [said.split(": ")[2] for said in own_lines(caplog)]
        assert lines == ["registered", "cannot be reached", "registered"]


async def test_a_router_that_is_away_does_not_disturb_the_other() -> None:
    """Nobody listens at one URL; the other has its heartbeats."""
    async with admin() as router, admin() as gone:
        await gone.stop()
        async with registered(gone.url, router.url):
            await router.wait_said(3)
        assert router.said[-1][0] == "DELETE"
        await gone.start()


async def test_a_refusal_is_logged_once_with_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """401 on every heartbeat is one warning."""
    async with admin() as router:
        router.status = 401
        async with registered(router.url):
            await router.wait_said(3)
        warnings = [said for said in own_lines(caplog) if "answered 401" in said]
        assert len(warnings) == 1 and '"no"' in warnings[0]


async def test_a_lease_that_ended_first_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """DELETE of a replica the router has forgotten is 404: nothing to warn about."""
    async with admin() as router:
        async with registered(router.url):
            await router.wait_said(1)
            router.status = 404
        assert not [said for said in own_lines(caplog) if "DELETE" in said]


class Reports:
    """Reports that renew the lease while a test says so."""

    renews = True


async def test_a_lease_that_reports_renew_needs_no_heartbeats() -> None:
    """One PUT registers. The next one comes when what is registered changes, or when reports stop."""
    reports = Reports()
    async with admin() as router, registered(router.url, ttl_s=10.0, renewals=[reports]) as registrar:
        await registrar.wait_registered()
        for _ in range(10):
            await asyncio.sleep(0.02)  # a heartbeat
        assert len(router.said) == 1
        registrar.set_adapters(["adapter"])
        await router.wait_said(2)
        assert router.said[1][2]["adapters"] == ["adapter"]
        reports.renews = False
        await router.wait_said(5)


async def test_reports_are_not_relied_on_where_the_lease_is_short() -> None:
    """A lease that would end before the end of reports was noticed is renewed by heartbeats."""
    async with admin() as router, registered(router.url, ttl_s=RENEWED_FOR_S, renewals=[Reports()]):
        await router.wait_said(3)


async def test_a_lease_that_reports_renew_is_confirmed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else wrote under the same id does not stay for ever."""
    monkeypatch.setattr("pointsman.engine.registration.CONFIRM_S", 0.0)
    async with admin() as router, registered(router.url, ttl_s=10.0, renewals=[Reports()]):
        await router.wait_said(3)
