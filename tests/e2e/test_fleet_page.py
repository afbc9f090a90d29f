"""The live page in a real browser: what people see of an edge, and what they can do to it."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import NEEDS_BROWSER, browsing
from edge import RunningEdge, running_up, until
from ring_line import line
from router_fixture import client_of, register, running_router

from pointsman.contract.registration import Registration
from pointsman.contract.tokens import hash_token
from pointsman.haproxy.last_check import CheckColumns, CheckRow
from pointsman.policies.registry import build_policy_set
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.decide.rollout import Plan
from pointsman.router.fleet.replica import Health
from pointsman.router.outliers.answers import Verdict

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), *NEEDS_BROWSER]

STATUS_401 = ("status of 401",)
STATUS_404 = ("status of 404",)
"""The browser writes a refusal into its console by itself, such as that there is no shadow."""

CONNECTION_LOST = ("net::ERR",)


def expect(*arguments: Any) -> Any:
    """Playwright's `expect`, which waits; imported where a browser is there."""
    from playwright.async_api import expect

    return expect(*arguments)


def address_of(router: Router) -> str:
    return f"http://{router.addresses['admin']}"


async def converse(edge: RunningEdge, count: int = 30) -> None:
    """So many requests of ten sessions, each with a prompt that grows."""
    for number in range(count):
        session = f"agent-{number % 10}"
        prompt = f"{session} " + " ".join(f"word{word}" for word in range(300 * (1 + number // 10)))
        assert (await edge.chat(prompt, session=session)).status_code == 200


def decide(router: Router, number: int, **about: Any) -> None:
    """A decision as HAProxy asks for it."""
    router.core.decide(RequestFeatures(request_id=f"r{number}", path="/v1/chat/completions", **about), router.clock())


async def test_an_edge_under_load_is_shown_and_can_be_operated() -> None:
    """Tiles, figures and decisions of real requests; a decision's why by keyboard; a drain and its end by click."""
    async with running_up(3) as edge, browsing(edge.admin_url) as browser:
        await converse(edge)
        page = await browser.open()
        tiles = page.get_by_role("list", name="Replicas").get_by_role("listitem")
        await expect(tiles).to_have_count(3)
        await expect(tiles.nth(1)).to_contain_text("sim-2")
        await expect(tiles.nth(1)).to_contain_text("up")
        await expect(page.locator("#health")).to_have_text("ready")
        await expect(page.locator("#f-hit")).to_contain_text("%")
        await expect(page.locator("#policy-name")).to_have_text("kv_cost r1")
        await expect(page.locator("#as-of")).to_contain_text("as of ")

        await _why_opens_by_keyboard(page)

        await tiles.nth(1).get_by_role("button", name="sim-2", exact=True).click()
        drawer = page.get_by_role("dialog")
        await expect(drawer).to_contain_text("Last health check")
        await drawer.get_by_role("button", name="Drain…").click()
        await expect(drawer).to_contain_text("sim-2 gets no further requests")
        assert (await edge.states())["sim-2"] == "up", "nothing happens before it is confirmed"
        await drawer.get_by_role("button", name="Drain sim-2").click()
        await expect(drawer).to_contain_text("draining")
        assert (await edge.states())["sim-2"] == "draining"
        await page.keyboard.press("Escape")
        await expect(tiles.nth(1)).to_contain_text("drained: nothing left")
        await expect(page.locator("#events")).to_contain_text("sim-2 is draining")

        await page.get_by_role("button", name="undrain sim-2").click()
        await page.get_by_role("dialog").get_by_role("button", name="Undrain sim-2").click()
        await until(lambda: _is_up(edge, "sim-2"))
        await page.keyboard.press("Escape")
        await expect(tiles.nth(1)).to_contain_text("up")


async def _is_up(edge: RunningEdge, replica: str) -> bool:
    return (await edge.states())[replica] == "up"


async def _why_opens_by_keyboard(page: Any) -> None:
    """`j` twice, `enter`: candidates and what came; `k` goes back up; `esc` closes and gives the focus back."""
    rows = page.locator("#decisions button")
    await expect(rows.nth(5)).to_contain_text("200")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    second = await rows.nth(1).get_attribute("data-id")
    await expect(page.locator("#decisions button.selected")).to_have_attribute("data-id", second)
    await page.keyboard.press("Enter")
    drawer = page.get_by_role("dialog")
    await expect(drawer.get_by_role("heading", level=2)).to_contain_text(second)
    await expect(drawer.locator("tr.chosen")).to_contain_text("chosen")
    await expect(drawer.locator(".candidates tbody tr")).to_have_count(3)
    await expect(drawer.locator(".compare")).to_contain_text("Cached tokens")
    await expect(drawer.locator(".stack title").first).to_contain_text("miss")
    await page.keyboard.press("k")
    first = await rows.nth(0).get_attribute("data-id")
    await expect(drawer.get_by_role("heading", level=2)).to_contain_text(first)
    await page.keyboard.press("Escape")
    await expect(drawer).not_to_be_visible()
    assert await page.evaluate("document.activeElement.closest('#decisions') !== null")
    await page.keyboard.press("Escape")
    await expect(page.locator("#decisions button.selected")).to_have_count(0)


async def test_a_wrong_token_is_refused_and_the_right_one_stays_in_the_tab(tmp_path: Path) -> None:
    """One that may only look is offered no change; a token is neither in the address nor kept beyond the tab."""
    tokens = tmp_path / "tokens.yaml"
    records = [{"name": name, "roles": [name], "sha256": hash_token(f"{name}-token")} for name in ("read", "operate")]
    tokens.write_text(yaml.safe_dump({"tokens": records}))
    admin = {"port": 0, "tokens_file": str(tokens)}
    async with running_router(admin=admin) as router, browsing(address_of(router)) as browser:
        router.core.replicas.put("a", Registration(url="http://10.0.0.1:1"), ("10.0.0.1", 1), 0.0)
        plan = Plan(steps=(0.5,))
        router.core.trials.start_rollout(build_policy_set({"policy": "random"}), plan, 0.0, author="ann", why="")
        page = await browser.open(expected=STATUS_401 + STATUS_404)
        ask = page.get_by_role("dialog", name="This router asks for a token")
        await ask.get_by_label("Token", exact=True).fill("guessed")
        await page.keyboard.press("Enter")
        await expect(ask.get_by_role("alert")).to_have_text("The router does not know this token.")
        await expect(page.locator(".tile")).to_have_count(0)
        await ask.get_by_label("Token", exact=True).fill("read-token")
        await page.keyboard.press("Enter")
        await expect(page.locator(".tile")).to_have_count(1)
        await expect(page.locator("#open-token")).to_have_text("read, may only look")
        assert "token" not in page.url
        assert await page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
        await page.locator(".tile").get_by_role("button", name="a", exact=True).click()
        drawer = page.get_by_role("dialog")
        await expect(drawer).to_contain_text("Registration")
        await expect(drawer.get_by_role("button", name="Drain…")).to_have_count(0)
        await page.keyboard.press("Escape")
        await page.keyboard.press("p")
        await expect(drawer).to_contain_text("A token with the role operate may change it.")
        await expect(drawer.locator(".rollout")).to_contain_text("running")
        await expect(drawer.get_by_role("button", name="Return…")).to_have_count(0)
        await page.reload()
        await expect(page.locator(".tile")).to_have_count(1)
        another = await browser.open(expected=STATUS_401)
        await expect(another.get_by_role("dialog", name="This router asks for a token")).to_be_visible()


async def test_500_replicas_are_a_map_that_answers() -> None:
    """A cell each, those that need a look as tiles; arrow keys, a click, and figures that go on."""
    async with running_router() as router, browsing(address_of(router)) as browser:
        core, now_s = router.core, router.clock()
        for number in range(500):
            registration = Registration(url=f"http://10.0.0.1:{number + 1}", model="m")
            core.replicas.put(f"chat-{number + 1}", registration, ("10.0.0.1", number + 1), now_s)
        core.replicas.drain("chat-77", now_s)
        core.replicas.set_health("chat-123", Health.DOWN, now_s)
        refused = "Layer4 connection problem at initial connection step of tcp-check (Connection refused)"
        check = CheckRow(CheckColumns.among(("check_status", "check_code", "check_desc")), f"L4CON,0,{refused}")
        core.replicas.checks.saw(core.replicas.slot_of("chat-123"), check, now_s)
        for _ in range(5):
            core.outliers.ended("failed", "chat-401", Verdict.ERROR, now_s, lasted_s=0.1)
        page = await browser.open()
        cells = page.get_by_role("list", name="Map of all replicas").get_by_role("button")
        await expect(cells).to_have_count(500)
        await expect(page.locator("#fleet-count")).to_contain_text("497 up")
        looks = page.locator(".looks .tile")
        await expect(looks.locator(".open")).to_have_text(["chat-123", "chat-401", "chat-77"])
        await expect(looks.nth(0)).to_contain_text(refused)
        assert await looks.nth(0).locator(".why").evaluate(WHOLE), "the end of a long reason says what is wrong"
        await expect(looks.nth(1)).to_contain_text("5 failed answers (error)")
        await expect(cells.nth(76)).to_have_attribute("aria-label", "chat-77, draining")
        await expect(cells.nth(122)).to_have_attribute("aria-label", "chat-123, down")
        for number in range(600):
            decide(router, number, model="m", session=f"s{number}")
        await expect(page.locator("#f-in-flight")).to_have_text("600")
        await cells.nth(0).focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator(".told")).to_contain_text("chat-2 · up")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_contain_text("http://10.0.0.1:2")
        await page.keyboard.press("Escape")
        await page.get_by_text("KV live", exact=True).click()
        before = await page.locator("#as-of").text_content()
        await expect(page.locator("#as-of")).not_to_have_text(before)
        assert await page.evaluate("document.querySelectorAll('*').length") < 6000
        await page.set_viewport_size({"width": 1280, "height": 720})
        assert await page.locator("#decisions").evaluate(WHOLE_WIDTH), "no column is cut off"


async def test_an_edge_that_went_away_is_shown_as_old_until_it_is_back() -> None:
    """What was known stays, marked as stale; the page connects again by itself."""
    async with AsyncExitStack() as stack:
        async with running_router() as router:
            await register(router, "a")
            admin = {"port": router.addresses["admin"].port}
            browser = await stack.enter_async_context(browsing(address_of(router)))
            page = await browser.open(expected=CONNECTION_LOST)
            await expect(page.locator(".tile")).to_have_count(1)
        await expect(page.locator("#as-of")).to_contain_text("stale: as of")
        await expect(page.locator("body.stale .tile")).to_contain_text("a")
        async with running_router(admin=admin) as router:
            await register(router, "a", "b")
            await expect(page.locator(".tile")).to_have_count(2)
            await expect(page.locator("body.stale")).to_have_count(0)


async def test_decisions_are_filtered_and_paused() -> None:
    async with running_router() as router, browsing(address_of(router)) as browser:
        await register(router, "a", model="m")
        for number in range(8):
            decide(router, number, model="m" if number % 2 else "unknown", session=f"s{number}")
        page = await browser.open(expected=("status of 422",))
        rows = page.locator("#decisions button")
        await expect(rows).to_have_count(8)
        await page.keyboard.press("/")
        await page.keyboard.type("reason:unknown-model")
        await expect(rows).to_have_count(4)
        await page.get_by_label("Filter of decisions").fill("status:odd")
        await expect(page.locator("#decisions-note")).to_contain_text("a status such as 503")
        await page.keyboard.press("Escape")
        await expect(rows).to_have_count(8)
        await page.get_by_role("button", name="Pause").click()
        decide(router, 100, model="m")
        await page.get_by_label("Filter of decisions").fill("nobody-has-this")
        await expect(page.locator("#decisions")).to_contain_text("No decision fits the filter.")


async def test_a_policy_is_tried_put_live_and_taken_back() -> None:
    """A document that is wrong is refused in words; a tried one shows what it would have moved."""
    async with running_router() as router, browsing(address_of(router)) as browser, client_of(router) as client:
        await register(router, "a", "b", model="m")
        for number in range(50):
            decide(router, number, model="m", session=f"s{number % 5}")
        page = await browser.open(expected=("status of 422", *STATUS_404))
        await page.keyboard.press("p")
        drawer = page.get_by_role("dialog")
        await drawer.get_by_label("JSON").fill('{"policy": "kv_cots"}')
        await drawer.get_by_role("button", name="Try it").click()
        await expect(drawer.get_by_role("status").first).to_contain_text("kv_cost")
        await expect(drawer.get_by_role("button", name="Put live")).to_be_disabled()
        await drawer.get_by_label("JSON").fill('{"policy": "round_robin"}')
        await drawer.get_by_role("button", name="Try it").click()
        await expect(drawer).to_contain_text("decisions would go elsewhere")
        await drawer.get_by_role("button", name="Into the shadow").click()
        await expect(drawer).to_contain_text("Beside it in the shadow: round_robin")
        decide(router, 200, model="m", session="s1")
        await page.keyboard.press("Escape")
        await page.keyboard.press("p")
        await expect(drawer.locator(".shadow")).to_contain_text("1 decision would go elsewhere")
        await drawer.get_by_role("button", name="Take it away").click()
        await expect(drawer.locator(".shadow")).to_have_count(0)
        await drawer.get_by_label("JSON").fill('{"policy": "round_robin"}')
        await drawer.get_by_role("button", name="Try it").click()
        await drawer.get_by_label("Why").fill("an experiment")
        await drawer.get_by_role("button", name="Put live").click()
        await expect(page.locator("#policy-name")).to_have_text("round_robin r2")
        await expect(drawer.locator(".headline")).to_contain_text("an experiment")
        await drawer.get_by_role("button", name="back to it…").click()
        assert (await client.get("/v1/policy")).json()["policy"] == "round_robin"
        await drawer.get_by_role("button", name="put r1 live").click()
        await expect(page.locator("#policy-name")).to_have_text("kv_cost r3")


def serve(router: Router, count: int) -> None:
    """Requests of new sessions that end; those of `round_robin` are slower, and one in ten of them fails."""
    assert router.core.decisions is not None
    known = len(router.core.decisions)
    for number in range(known, known + count):
        decide(router, number, model="m", session=f"s{number}")
        record = router.core.decisions.get(f"r{number}")
        assert record is not None
        chosen, slow = record.decision.first, record.policy == "round_robin"
        status = 500 if slow and number % 10 == 0 else 200
        ended = line(id=f"r{number}", srv=chosen, first=chosen, ttft="110" if slow else "100", st=status)
        router.core.end_of_request.apply(ended, router.clock())


async def test_a_rollout_is_watched_and_taken_back() -> None:
    """Begun from the page; both policies side by side, drawn anew while requests end; it ends by the second press."""
    async with running_router() as router, browsing(address_of(router)) as browser, client_of(router) as client:
        await register(router, "a", "b", model="m")
        page = await browser.open(expected=STATUS_404)
        await expect(page.locator("#rollout")).to_be_hidden()
        await page.keyboard.press("p")
        drawer = page.get_by_role("dialog")
        await drawer.get_by_label("JSON").fill('{"policy": "round_robin"}')
        await drawer.get_by_role("button", name="Try it").click()
        await drawer.get_by_label("Why").fill("an experiment")
        await drawer.get_by_role("button", name="Roll out").click()
        rollout = drawer.locator(".rollout")
        await expect(rollout.get_by_role("heading")).to_contain_text("Rollout of round_robin running")
        await expect(rollout).to_contain_text("an experiment")
        await expect(rollout.get_by_role("listitem")).to_have_text(["10\u202f%", "50\u202f%", "live"])
        await expect(rollout.locator("[aria-current]")).to_have_text("10\u202f%")
        await expect(page.locator("#rollout")).to_have_text("rollout round_robin 10\u202f%")
        await expect(page.locator("#policy-name")).to_have_text("kv_cost r1")
        serve(router, 200)
        state = (await client.get("/v1/policy/rollout")).json()
        live, tried = state["live"], state["candidate"]
        assert live["requests"] + tried["requests"] == 200 and tried["errors"] > 0
        rows = rollout.locator("tbody tr")
        await expect(rows.nth(0)).to_contain_text(str(live["requests"]))
        await expect(rows.nth(0)).to_contain_text(str(tried["requests"]))
        await expect(rows.nth(1)).to_contain_text("at most +2.0\u202f%")
        await expect(rows.nth(1).locator("b.wrong")).to_have_text(f"{100 * tried['error_share']:.1f}\u202f%")
        await expect(rows.nth(3)).to_contain_text("100\u202fms")
        await expect(rows.nth(4)).to_contain_text("110\u202fms")
        await expect(rows.nth(5)).to_contain_text("1.10\u202f×")
        assert await page.evaluate(NAMELESS) == []
        await rollout.get_by_role("button", name="Return…").click()
        assert (await client.get("/v1/policy/rollout")).json()["state"] == "running", "it is confirmed first"
        await rollout.get_by_role("button", name="Let kv_cost decide all sessions").click()
        await expect(rollout.get_by_role("heading")).to_have_text("Rollout of round_robin aborted")
        await expect(rollout).to_contain_text("ended it")
        await expect(rollout.get_by_role("button")).to_have_count(0)
        await expect(page.locator("#rollout")).to_be_hidden()


async def test_a_request_is_explained_before_it_is_sent() -> None:
    async with running_router() as router, browsing(address_of(router)) as browser:
        await register(router, "a", "b", model="m")
        page = await browser.open()
        await expect(page.locator(".tile")).to_have_count(2)
        await page.keyboard.press("e")
        drawer = page.get_by_role("dialog")
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 500}]})
        await drawer.get_by_label("Body").fill(body)
        await drawer.get_by_role("button", name="Explain").click()
        await expect(drawer.locator(".candidates tbody tr")).to_have_count(2)
        await drawer.get_by_label("Body").fill("{")
        await drawer.get_by_role("button", name="Explain").click()
        await expect(drawer).to_contain_text("The body is not JSON")
        assert router.core.load.total_in_flight == 0


async def test_an_edge_without_replicas_or_records_says_so() -> None:
    """Empty is no error, and each list says how it fills."""
    async with running_router(decisions={"max_records": 0}) as router, browsing(address_of(router)) as browser:
        page = await browser.open(expected=STATUS_404)
        await expect(page.locator("#fleet")).to_contain_text("No replica is registered.")
        await expect(page.locator("#health")).to_have_text("not ready")
        await expect(page.locator("#notice")).to_contain_text("none is registered")
        await expect(page.locator("#decisions")).to_contain_text("decisions.max_records is 0")
        await expect(page.locator("#f-requests")).to_have_text("–")


async def test_everything_has_a_name_for_a_screen_reader() -> None:
    """Landmarks, and a name for whatever can be pressed or filled in; both schemes of colours."""
    async with running_router() as router, browsing(address_of(router)) as browser:
        await register(router, "a", "b", model="m")
        decide(router, 1, model="m")
        grounds = []
        for scheme in ("light", "dark"):
            page = await browser.open(color_scheme=scheme, expected=STATUS_404)
            await expect(page.locator("#decisions button")).to_have_count(1)
            grounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(set(grounds)) == 2
        for role in ("main", "banner", "navigation", "status"):
            await expect(page.get_by_role(role).first).to_be_attached()
        nameless = await page.evaluate(NAMELESS)
        assert nameless == []
        for key, close in (("p", "Escape"), ("e", "Escape"), ("?", "Escape")):
            await page.keyboard.press(key)
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert await page.evaluate(NAMELESS) == []
            await page.keyboard.press(close)


WHOLE = "(node) => node.scrollHeight <= node.clientHeight"
WHOLE_WIDTH = "(node) => node.scrollWidth <= node.clientWidth"
"""Whether all of an element's content is in view."""

NAMELESS = """
[...document.querySelectorAll('button, input, select, textarea, a, dialog, section, figure svg')]
  .filter((node) => !node.closest('[hidden]') && !node.textContent.trim() && !node.labels?.length)
  .filter((node) => !node.getAttribute('aria-label') && !node.getAttribute('aria-labelledby'))
  .map((node) => node.outerHTML.slice(0, 120))
"""
"""Elements that a screen reader could only call by their kind."""
