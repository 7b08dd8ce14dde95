# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Debian's Chromium, without a window, in front of one served page."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tests.app.serving import Served

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
pytest.importorskip("gradio")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
PATIENCE = 300_000
"""Milliseconds that a slow machine has for what is waited for."""
sync_api.expect.set_options(timeout=PATIENCE)
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """Playwright has an event loop run in this thread as long as it is there: no other test could begin one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(browser, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.end()


@pytest.fixture
def visit(browser, served):
    """Of somebody new, who has a cookie of her own: ``visit("phone", dark=True)`` is the page.

    Nothing may be wrong in the console, and nothing may be asked of another machine.
    """
    contexts, wrong = [], []

    def visit(width="desktop", *, dark=False, at=served):
        context = browser.new_context(viewport=WIDTHS[width], color_scheme="dark" if dark else "light")
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if _is_here(asked.url) else wrong.append(f"asks for {asked.url}"))
        page.goto(at.url)
        page.get_by_role("tab").first.wait_for()
        return page

    visit.wrong = wrong
    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def _is_here(url):
    address = urlparse(url)
    return address.scheme in ("data", "blob") or address.hostname == "127.0.0.1"


@pytest.fixture(scope="session")
def shoot(tmp_path_factory):
    """``shoot(page, name)``: a picture of all of a page, in the folder that is named outside, or for this once."""
    folder = Path(os.environ.get("DREAMBOOTH_JAX_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def shoot(page, name):
        page.screenshot(path=folder / f"{name}.png", full_page=True, animations="disabled")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than its window"

    return shoot
