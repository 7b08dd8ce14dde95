# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody does on the page, step by step; each is found by its role or label, and leaves a picture."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from dreambooth_jax.pipeline.load import EMBEDDED

SUBJECT = sorted((EMBEDDED / "subject").glob("*.png"))
CAPTIONS = sorted((EMBEDDED / "subject").glob("*.txt"))
ACTIVE = re.compile(r": (waiting|running|stopping)\b")
PROMPT = "a sks alien on a red background"


class Walk:
    """Somebody on the page.

    Args:
        page: that is open.
        shoot: takes a picture of it.
        name: what its pictures are called by.
    """

    def __init__(self, page: Any, shoot: Callable[[Any, str], None], name: str):
        self.page, self._shoot, self._name = page, shoot, name

    def upload(self, *settings: str) -> None:
        """The five shipped pictures with what is said of them, all at once; it may begin when they are seen."""
        self.open("Train")
        button = self._panel.get_by_role("button", name="Train", exact=True)
        expect(button).to_be_disabled()
        self._block("Photos of the subject").locator("input[type=file]").set_input_files([*SUBJECT, *CAPTIONS])
        self.field("What they show, in one word").fill("alien")
        if settings:
            self._panel.get_by_role("button", name="Advanced").click()
            self._panel.get_by_label("More settings").fill("\n".join(settings))
        self._are_seen("Photos, as training sees them", at_least=len(SUBJECT))
        expect(self._panel.get_by_text("memory: ")).to_be_visible()
        expect(button).to_be_enabled()
        self.shot("photos")

    def train(self) -> None:
        """With the quickest recipe, until it has ended; pictures are there on the way."""
        self.press("Train")
        self._block("Pictures on the way").locator("img:visible").first.wait_for()
        self.reads("Progress", ": running")
        self.ends("Progress")
        self._are_seen("Pictures on the way", at_least=2)
        self.shot("trained")

    def compare(self) -> None:
        """The same prompt with the model before training."""
        self.open("Draw")
        expect(self.field("Model")).to_have_value(re.compile(r"^\d+: alien"))
        self.field("What to draw").fill(PROMPT)
        self.field("number input for Pictures").fill("1")
        before = self._panel.get_by_label("Before and after")
        before.check()
        self.press("Draw")
        self._draws(2)
        self.shot("compared")
        before.uncheck()

    def inpaint(self) -> None:
        """Paint over the middle of a picture; it is drawn anew there."""
        self.page.get_by_role("button", name="A picture to begin with").click()
        editor = self._block("Picture to begin with")
        editor.locator("canvas").first.wait_for()
        editor.locator("input[type=file]").first.set_input_files(SUBJECT[0])
        editor.get_by_role("button", name="Brush").click()
        box = editor.locator("canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x - 20, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 20, y, steps=5)
        self.page.mouse.up()
        self.press("Draw")
        self._draws(1)
        self.shot("inpainted")
        editor.get_by_role("button", name="Clear canvas").click()

    def matrix(self) -> None:
        """Steps across, guidance down: one sheet of four."""
        self.page.get_by_role("button", name="Matrix").click()
        for place, setting, values in (("across", "steps", "1, 2"), ("down", "guidance scale", "1, 3")):
            self.field(f"What varies {place}").click()
            self.page.get_by_role("option", name=setting, exact=True).click()
            expect(self.page.get_by_role("option")).to_have_count(0)
            self._panel.get_by_label(f"Its values {place}").fill(values)
        self.press("Draw")
        self._draws(1)
        self.shot("matrix")

    def doctor(self) -> None:
        """Its report is shown."""
        self.open("Measure")
        self.press("Doctor")
        self.ends("Progress of the measuring")
        expect(
            self._block("Report").get_by_text("change: ").or_(self._panel.get_by_text("Nothing is wrong")).first
        ).to_be_visible()
        self.shot("doctor")

    def take_home(self) -> Path:
        """The LoRA, as the browser saves it."""
        self.open("Take home")
        self.press("Export")
        self.ends("Progress of the export")
        link = self._block("To download").get_by_role("link").first
        with self.page.expect_download() as download:
            link.click()
        self.shot("taken_home")
        return Path(download.value.path())

    def open(self, tab: str) -> None:
        """A tab."""
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def ends(self, label: str) -> None:
        """What the box of that label tells of comes to its end, and that is a good one."""
        box = self.field(label)
        expect(box).to_have_value(ACTIVE)
        expect(box).not_to_have_value(ACTIVE)
        assert ": done" in box.input_value(), box.input_value()

    def reads(self, label: str, pattern: str) -> None:
        """The box of that label comes to say what the pattern finds."""
        expect(self.field(label)).to_have_value(re.compile(pattern))

    def shot(self, name: str) -> None:
        """A picture of all of the page."""
        self._shoot(self.page, f"{self._name}_{name}")

    @property
    def _panel(self) -> Any:
        """The tab that is open."""
        return self.page.locator("[role=tabpanel]:visible")

    def field(self, label: str) -> Any:
        """What has that label, on the tab that is open."""
        return self._panel.get_by_label(label, exact=True)

    def press(self, button: str) -> None:
        """A button of the tab that is open."""
        self._panel.get_by_role("button", name=button, exact=True).click()

    def _are_seen(self, label: str, *, at_least: int) -> None:
        """Pictures, all of which have come."""
        images = self._block(label).locator("img:visible")
        images.nth(at_least - 1).wait_for()
        for number in range(images.count()):
            images.nth(number).scroll_into_view_if_needed()  # until then a browser does not ask for it
            expect(images.nth(number)).to_have_js_property("complete", value=True)
        assert all(images.evaluate_all("all => all.map(one => one.naturalWidth)"))

    def _block(self, label: str) -> Any:
        """What has that label, which the ecosystem's own do not always tell to a screen reader."""
        return self._panel.locator(".block:visible").filter(has_text=label).last

    def _draws(self, many: int) -> None:
        self.ends("Progress of the drawing")
        self._are_seen("Pictures", at_least=many)
