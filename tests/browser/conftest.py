"""A real Chromium in front of the page of a running API."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.integration.running_api import Api

OWN = "embl"
_CHROMIUM = shutil.which("chromium")

expect.set_options(timeout=20_000)  # other tests run beside these

Open = Callable[..., Page]
_T = TypeVar("_T")


@pytest.fixture(scope="module")
def browser(worker: object, api: Api) -> Iterator[Browser]:
    """Run Chromium, without a window. What starts otherwise has started: Playwright keeps this thread's event loop."""
    if _CHROMIUM is None:
        pytest.skip("needs chromium (on Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])


def aside(act: Callable[..., _T], *given: Any, **named: Any) -> _T:
    """Call what runs an event loop of its own, which it cannot beside Playwright's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act, *given, **named).result()


@pytest.fixture
def troubles() -> list[str]:
    """Gather what a page says on its console."""
    return []


@pytest.fixture
def open_page(browser: Browser, api: Api, troubles: list[str]) -> Iterator[Open]:
    """Open the page as somebody new; `signed_in` unless told otherwise. At the end no page may have complained."""
    with ExitStack() as at_end:

        def open_(*, signed_in: bool = True, institution: str = OWN, **how: Any) -> Page:
            context = browser.new_context(**{"locale": "en-GB", **how})
            at_end.callback(context.close)
            page = context.new_page()
            page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.goto(api.url)
            if signed_in:
                page.locator("#key").fill(api.keys[institution])
                page.locator("#sign-in button").click()
                page.locator("#status[data-state=live]").wait_for()
            return page

        yield open_
    # That a signed-out browser is told so is no trouble, though Chromium logs every 401.
    assert [one for one in troubles if "401" not in one] == []
