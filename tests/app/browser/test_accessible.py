# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every tab, for those who do not see it, or not well, on every kind of screen."""

import pytest

from dreambooth_jax.app.page import TABS
from tests.app.browser.conftest import WIDTHS

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install -e '.[browser]'")
pytestmark = pytest.mark.slow

SETTLED = 500
"""Milliseconds after which a tab stands still."""
GRAVE = ("serious", "critical")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_tab_has_a_serious_finding(visit, shoot, width, dark):
    page = visit(width, dark=dark)
    findings = []
    for name in TABS:
        page.get_by_role("tab", name=name, exact=True).click()
        page.wait_for_timeout(SETTLED)
        shoot(page, f"{name.lower()}_{width}_{'dark' if dark else 'light'}")
        findings += [f"{name}: {finding}" for finding in grave(page)]
    assert findings == []


def grave(page):
    """What axe finds on what is shown, a line each."""
    for violation in axe.Axe().run(page).response["violations"]:
        if violation["impact"] in GRAVE:
            for node in violation["nodes"]:
                yield f"{violation['id']}: {node['html'][:160]} {node['failureSummary'].splitlines()[1].strip()}"
