"""A real browser without a screen, Debian's Chromium, for tests of what people see.

`browsing` opens pages, and holds each to what all pages promise: no request goes to another address, the browser finds
no violation of the page's own security policy, and no script fails.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

try:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect
except ImportError:
    async_playwright = None  # type: ignore[assignment]

CHROMIUM = shutil.which("chromium")

WAIT_MS = 60_000
"""How long a test waits for what must be seen; a loaded machine is slow, not wrong."""

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
"""Without a sandbox: tests in containers run as root, and open no page but our own."""

NEEDS_BROWSER = (
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or async_playwright is None, reason="no Chromium, or no Playwright: make browser installs both"
    ),
)
"""Marks of a test that opens a page."""


class Browsing:
    """One browser that shows one address."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser = browser
        self.address = address
        self.wrong: list[str] = []
        """Whatever broke a promise of all pages."""

    async def open(self, path: str = "/", *, expected: tuple[str, ...] = (), **options: Any) -> Page:
        """Open a page as a person does who was never here.

        expected: parts of messages in the console that are no fault, such as the browser's own about a status.
        """
        context = await self._browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        page = await context.new_page()
        page.set_default_timeout(WAIT_MS)

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not any(part in message.text for part in expected):
                self.wrong.append(f"console: {message.text}")

        def asked(request: Request) -> None:
            if urlsplit(request.url).scheme in ("http", "https") and not request.url.startswith(self.address):
                self.wrong.append(f"asked another address: {request.url}")

        page.on("console", heard)
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("request", asked)
        await page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (event) => console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`))"
        )
        await page.goto(f"{self.address}{path}")
        return page


@asynccontextmanager
async def browsing(address: str) -> AsyncIterator[Browsing]:
    """A browser for the pages at one address, such as `http://127.0.0.1:8001`."""
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            seen = Browsing(browser, address)
            yield seen
        finally:
            await browser.close()
    assert not seen.wrong, seen.wrong
